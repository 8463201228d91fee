"""What the front of a line says."""

from __future__ import annotations

import pytest

from attr_actors.core.lines import parse_clock, read_lines
from attr_actors.core.sparse import Piece


def read(*texts: str) -> list[tuple[int | None, str | None, str]]:
    pieces = [Piece(i, i * 100, i * 100, text) for i, text in enumerate(texts, 1)]
    return [(line.rank, line.node, line.body) for line in read_lines(pieces)]


@pytest.mark.parametrize(
    ("text", "rank", "node", "body"),
    [
        ("[rank3]: ValueError: x", 3, None, "ValueError: x"),
        ("[default5]:loss 1", 5, None, "loss 1"),
        ("[trainer0|12]:loss 1", 12, None, "loss 1"),
        ("[1,7]<stderr>:KeyError: 1", 7, None, "KeyError: 1"),
        ("(TrainWorker pid=41, ip=10.0.0.2) ready", None, "10.0.0.2", "ready"),
        ("\x1b[36m(Actor.step pid=41)\x1b[0m ready", None, None, "ready"),
        ("[pod/train-worker-3/pytorch] ready", None, "train-worker-3", "ready"),
        ("2024-05-01T12:00:00.123456789Z stderr F boom", None, None, "boom"),
        ("gpu-7:4121:4199 [3] NCCL INFO Channel 00", None, "gpu-7", "gpu-7:4121:4199 [3] NCCL INFO Channel 00"),
        ("srun: error: node3: task 12: Exited with exit code 1", 12, "node3", "srun: error: node3: task 12: Exited with exit code 1"),
        ("Jun  7 10:00:06 gpu-17 kernel: NVRM: Xid", None, "gpu-17", "Jun  7 10:00:06 gpu-17 kernel: NVRM: Xid"),
        ("[E ProcessGroupNCCL.cpp:563] [Rank 5] Watchdog", 5, None, "[E ProcessGroupNCCL.cpp:563] [Rank 5] Watchdog"),
        ("a plain line", None, None, "a plain line"),
    ],
)
def test_a_prefix_names_rank_and_node(text: str, rank: int | None, node: str | None, body: str) -> None:
    assert read(text) == [(rank, node, body)]


def test_a_bare_number_is_a_rank_only_where_the_whole_log_is_labelled() -> None:
    labelled = read(*(f"{rank}: loss {rank}" for rank in (0, 1, 0, 1, 0, 1)))
    alone = read("epoch summary", "3: the third remark", "more text", "and more", "and more still")
    assert [rank for rank, _, _ in labelled] == [0, 1, 0, 1, 0, 1]
    assert [body for _, _, body in labelled[:2]] == ["loss 0", "loss 1"]
    assert alone[1] == (None, None, "3: the third remark")


def test_hosts_label_the_lines_of_pdsh() -> None:
    found = read(*(f"worker-{n}: step" for n in (1, 2, 1, 2, 1, 2)))
    assert {node for _, node, _ in found} == {"worker-1", "worker-2"}


def test_clocks_of_one_log_can_be_compared() -> None:
    pairs = [
        ("2024-05-01 10:00:00,120 INFO a", "2024-05-01 10:00:05,000 INFO b"),
        ("[2024-05-01 10:00:00,120] [INFO] a", "[2024-05-01 10:00:05,120] [INFO] b"),
        ("05/01/2024 10:00:00 - INFO", "05/01/2024 10:00:05 - INFO"),
        ("E0501 10:00:00.100 41 x.py:1] a", "E0501 10:00:05.100 41 x.py:1] b"),
        ("[Sun Feb 23 16:24:18 2025] NVRM", "[Sun Feb 23 16:24:23 2025] NVRM"),
        ("Feb 23 16:24:18 host kernel", "Feb 23 16:24:23 host kernel"),
    ]
    for earlier, later in pairs:
        first, second = parse_clock(earlier), parse_clock(later)
        assert first is not None
        assert second is not None
        assert second - first == 5


@pytest.mark.parametrize("text", ["", "no clock", "2024-13-45 99:99:99 x", "[Sun Foo 99 16:24:18 2025]"])
def test_a_broken_clock_is_no_clock(text: str) -> None:
    assert parse_clock(text) is None
