"""Markers: what counts, in any chunking, without reading a byte twice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core import markers as m
from attr_actors.core.markers import Markers, feed, read_markers
from attr_actors.core.paths import LogPath


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def block(logs_dir: str) -> list[str]:
    return ["<< START PATHS >>", f"LOGS_DIR={logs_dir}", "<< END PATHS >>"]


def cycle(n: int) -> str:
    return f"2026-05-01 10:00:00,000 INFO profiling.py:214 [launcher] event=rendezvous_started Cycle: {n}"


def test_only_a_line_that_is_the_marker_counts() -> None:
    found = feed(Markers(), text("echo << START PATHS >>", "<< START PATHS >> x", "  << START PATHS >>\r", "x << END PATHS >>"))
    assert (found.starts, found.block_open) == (1, True)


def test_logs_dir_counts_inside_a_block_only_and_the_last_one_wins() -> None:
    found = feed(Markers(), text("LOGS_DIR=/no", *block("/first/"), "LOGS_DIR=/no", *block("/second"), "LOGS_DIR=/no"))
    assert (found.starts, found.logs_dir, found.logs_dir_changes, found.block_open) == (2, "/second", 1, False)


def test_the_same_logs_dir_again_is_no_change() -> None:
    found = feed(Markers(), text(*block("/d"), *block("/d/")))
    assert (found.starts, found.logs_dir_changes) == (2, 0)


def test_repeated_scheduler_starts_with_cycles_0_1_0_1_stay_four_attempts() -> None:
    marked = text(*block("/d"), cycle(0), cycle(0), cycle(1), *block("/d"), cycle(0), cycle(1), cycle(1))
    assert (feed(Markers(), marked).starts, feed(Markers(), marked).attempts) == (2, 4)
    unmarked = text(cycle(0), cycle(1), cycle(1), cycle(0), cycle(1))
    assert feed(Markers(), unmarked).attempts == 4


def test_a_start_with_the_same_cycle_is_another_attempt() -> None:
    assert feed(Markers(), text(*block("/d"), cycle(0), *block("/d"), cycle(0))).attempts == 2


def test_cycle_needs_the_launchers_file_name() -> None:
    assert feed(Markers(), text("Cycle: 3", "other.py: Cycle: 3", "profiling.py: Cycle: x")).attempts == 0


MIXED = text("noise", *block("/a"), cycle(0), "y" * 300, *block("/b"), cycle(0), cycle(1), "tail", "<< START PATHS >>")


@given(st.lists(st.integers(1, len(MIXED)), max_size=12))
def test_any_chunking_gives_the_same_markers(cuts: list[int]) -> None:
    whole = feed(Markers(), MIXED)
    state = Markers()
    for end in [*sorted(cuts), len(MIXED)]:
        state = feed(state, MIXED[state.offset : end])
    assert state == whole
    assert whole.starts == 3


@given(
    st.lists(
        st.sampled_from([b"a", b"\n", b"<< START PATHS >>", b"LOGS_DIR=/x", b"\r", b"profiling.py: Cycle: 1", b"\xff\x00"]), max_size=40
    )
)
def test_no_bytes_break_it_and_it_never_passes_the_last_newline(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert feed(Markers(), data).offset == data.rfind(b"\n") + 1


def test_a_line_without_end_costs_no_memory_and_hides_no_later_marker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(m, "LINE_BYTES_MAX", 100)
    monkeypatch.setattr(m, "CHUNK_BYTES", 1000)
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 5500 + b"<< START PATHS >>\n" + text(*block("/d")))
    found = read_markers(LogPath(str(log), str(tmp_path)), Markers(), 10_000)
    assert (found.starts, found.logs_dir, found.mid_line) == (1, "/d", False)


class Reads:
    """Counts the bytes that ``os.pread`` returns behind the head."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = os.pread

        def pread(fd: int, size: int, offset: int) -> bytes:
            data = real(fd, size, offset)
            self.bytes += len(data)
            return data

        monkeypatch.setattr(m.os, "pread", pread)


def test_a_grown_log_costs_only_what_was_appended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(text(*block("/a")) + b"line\n" * 1_000_000)
    path = LogPath(str(log), str(tmp_path))
    known = read_markers(path, Markers(), 2**20)
    assert known.offset == log.stat().st_size
    with log.open("ab") as f:
        f.write(text(*block("/b")))
    reads = Reads(monkeypatch)
    found = read_markers(path, known, 2**20)
    assert (found.starts, found.logs_dir) == (2, "/b")
    assert reads.bytes < 3 * m.HEAD_BYTES


def test_a_log_without_start_paths_in_its_head_is_not_read_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"line\n" * 2_000_000)
    reads = Reads(monkeypatch)
    path = LogPath(str(log), str(tmp_path))
    known = read_markers(path, Markers(), 2**20)
    assert reads.bytes <= 2 * 2**20 + 2 * m.HEAD_BYTES
    reads.bytes = 0
    read_markers(path, known, 2**20)
    assert reads.bytes <= 2 * m.HEAD_BYTES


@pytest.mark.parametrize("again", [text(*block("/b")), text(*block("/b"), "z" * 4000)], ids=["shorter", "longer than before"])
def test_a_truncated_log_is_read_again_and_its_former_starts_stay_counted(again: bytes, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(text(*block("/a"), cycle(0)))
    path = LogPath(str(log), str(tmp_path))
    known = read_markers(path, Markers(), 2**20)
    log.write_bytes(again)  # The same inode, as a requeue without append mode leaves it.
    found = read_markers(path, known, 2**20)
    assert (found.starts, found.logs_dir, found.offset, found.attempts) == (2, "/b", len(again), 1)


def test_a_replaced_log_is_read_again(tmp_path: Path) -> None:
    log, other = tmp_path / "a.log", tmp_path / "b.log"
    log.write_bytes(text(*block("/a")))
    known = read_markers(LogPath(str(log), str(tmp_path)), Markers(), 2**20)
    other.write_bytes(text(*block("/a")) + text(*block("/c")))
    os.replace(other, log)
    assert read_markers(LogPath(str(log), str(tmp_path)), known, 2**20).starts == 3


def test_one_call_reads_a_bounded_part_and_the_next_ones_go_on_to_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(text(*block("/a")) + b"line\n" * 1_000_000 + text(*block("/b"), cycle(0)))
    path, size, known = LogPath(str(log), str(tmp_path)), log.stat().st_size, Markers()
    reads = Reads(monkeypatch)
    offsets = []
    while not offsets or known.is_behind(size):
        reads.bytes = 0
        known = read_markers(path, known, 4096, 2 * m.CHUNK_BYTES)
        offsets.append(known.offset)
        assert reads.bytes <= 2 * m.CHUNK_BYTES + 2 * m.HEAD_BYTES
    assert len(offsets) == 3
    assert (known.offset, known.starts, known.logs_dir, known.attempts) == (size, 2, "/b", 1)


def test_a_call_ends_in_time_and_still_makes_progress(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(text(*block("/a")) + b"line\n" * 1_000_000)
    found = read_markers(LogPath(str(log), str(tmp_path)), Markers(), 4096, look_s=0)
    assert 0 < found.offset <= m.CHUNK_BYTES
    assert found.is_behind(log.stat().st_size)


def test_the_bound_is_by_the_bytes_that_are_read_where_holes_are_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_holes(fd: int, offset: int, how: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(m.os, "lseek", no_holes)
    path, size, known, looks = sparse_log(tmp_path, 256 << 20), 256 << 20, Markers(), 0
    while not looks or known.is_behind(size):
        known, looks = read_markers(path, known, 4096, look_s=60), looks + 1
    assert (looks, known.offset) == (5, size)  # The first chunk of the first look goes to the last whole line only.


def sparse_log(root: Path, size: int, end: bytes = b"") -> LogPath:
    with (root / "sparse.log").open("wb") as f:
        f.write(text(*block("/a")))
        f.truncate(size - len(end))
        f.seek(0, os.SEEK_END)
        f.write(end)
    return LogPath(str(root / "sparse.log"), str(root))


def test_a_hole_is_skipped_and_hides_no_later_marker(tmp_path: Path) -> None:
    path = sparse_log(tmp_path, 8 << 40, b"\n" + text(*block("/b")))
    began, known = time.monotonic(), Markers()
    for _ in range(3):
        known = read_markers(path, known, 4096)
    assert (known.starts, known.logs_dir, known.offset) == (2, "/b", 8 << 40)
    assert time.monotonic() - began < 5


def test_a_line_full_of_the_writers_name_costs_linear_time() -> None:
    began = time.monotonic()
    found = feed(Markers(), b"profiling.py:" * 5_000 + b"Cycle: 1234567890 Cycle: 3 Cycle: 4x" + b"\n" + text(cycle(7)))
    assert (found.attempts, found.cycle) == (2, 7)
    assert time.monotonic() - began < 0.5
