"""Splitlog: which files are a job's, their order, and what a request means."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.paths import LogPath
from attr_actors.core.splitlog import (
    Listed,
    LogsDirs,
    cycle_id_from_path,
    is_log_of,
    job_id_from_path,
    list_log_files,
    order_key,
    select_cycles,
    select_files,
)
from attr_actors.errors import InvalidParameter, LogsDirNotReadable, NotFound


@pytest.mark.parametrize(
    ("path", "job_id"),
    [
        ("/l/train_4711_date_26-05-01_time_10-00-00.log", "4711"),
        ("/l/job_12/slurm.log", "12"),
        ("/l/slurm-9.out", "9"),
        ("/l/slurm-9.err", "9"),
        ("/l/slurm-9_3.out", None),
        ("/l/123456.out", "123456"),
        ("/l/12345.out", None),
        ("/l/train_123456.log", "123456"),
        ("/l/train_12345.log", None),
        ("/l/job_7/train_8_date_x.log", "8"),
        ("/l/train.log", None),
    ],
)
def test_the_job_id_is_read_from_the_path_by_the_first_pattern_that_fits(path: str, job_id: str | None) -> None:
    assert job_id_from_path(path) == job_id


@pytest.mark.parametrize(
    ("path", "cycle"), [("/l/m_1_cycle12.log", 12), ("/l/m_1_cycle0.log", 0), ("/l/m_cycle.log", None), ("/l/a.log", None)]
)
def test_the_cycle_is_read_from_the_file_name(path: str, cycle: int | None) -> None:
    assert cycle_id_from_path(path) == cycle


@pytest.mark.parametrize(
    ("name", "job_id", "own"),
    [
        ("model_1_cycle0.log", "1", True),
        ("model_12_cycle0.log", "1", False),
        ("_1_.log", "1", True),
        ("model_1.log", "1", False),
        ("model_1_x.env.log", "1", False),
        ("model_1_x.log.gz", "1", False),
        (".hidden_1_x.log", "1", False),
        ("a_1*_x.log", "1*", True),
        ("a_1234_x.log", "1*", False),
        ("a_[0-9]_x.log", "[0-9]", True),
        ("a_5_x.log", "[0-9]", False),
        ("a_77_4_x.log", "77_4", True),
        ("a_1_\nx.log", "1", False),
        ("a_1_\udcff.log", "1", False),
    ],
)
def test_the_job_id_is_taken_literally(name: str, job_id: str, own: bool) -> None:
    assert is_log_of(name, job_id) is own


OLD, NEW = 1_700_000_000, 1_790_000_000  # November 2023 and September 2026.


@pytest.mark.parametrize(
    ("files", "order"),
    [
        pytest.param(
            {"m_1_cycle10.log": 1, "m_1_cycle2.log": 2, "m_1_cycle0.log": 3}, "2 1 0", id="cycles by number, not by text or mtime"
        ),
        pytest.param(
            {
                "m_1_date_26-01-02_time_00-00-00.log": 1,
                "m_1_date_26-01-01_time_23-59-59.log": 2,
                "m_1_date_25-12-31_time_00-00-00.log": 3,
            },
            "2 1 0",
            id="dates by time, not by mtime",
        ),
        pytest.param(
            {"m_1_date_26-01-02.log": 1, "m_1_date_26-01-01_time_23-59-59.log": 2, "m_1_date_26-01-01.log": 3}, "2 1 0", id="a date alone"
        ),
        pytest.param({"m_1_b.log": NEW, "m_1_a.log": NEW + 1, "m_1_c.log": OLD}, "2 0 1", id="others by mtime"),
        pytest.param(
            {"m_1_z.log": OLD, "m_1_cycle1.log": NEW, "m_1_date_26-01-01_time_00-00-00.log": OLD, "m_1_cycle0.log": NEW},
            "3 1 0 2",
            id="mixed: cycles first, the rest by time",
        ),
        pytest.param(
            {"m_1_x.log": NEW, "m_1_date_26-01-01_time_00-00-00.log": NEW + 5, "m_1_y.log": OLD}, "2 1 0", id="dates among mtimes"
        ),
        pytest.param({"m_1_date_99-99-99_time_00-00-00.log": NEW, "m_1_date_26-01-01_time_00-00-00.log": 1}, "1 0", id="no date: by mtime"),
        pytest.param({"b_1_cycle1.log": 2, "a_1_cycle1.log": 1, "c_1_cycle0.log": 9}, "2 1 0", id="the same cycle twice: by mtime"),
    ],
)
def test_the_order_of_files(files: dict[str, int], order: str) -> None:
    names = list(files)
    listed = [Listed(name, 1, mtime * 10**9) for name, mtime in files.items()]
    random.shuffle(listed)
    assert [f.name for f in sorted(listed, key=order_key)] == [names[int(i)] for i in order.split()]


@given(
    st.lists(
        st.tuples(st.sampled_from(["m_1_cycle3.log", "m_1_cycle1.log", "a_1_b.log", "m_1_date_26-01-01.log"]), st.integers(0, 2**62)),
        unique_by=lambda f: f[0],
    )
)
def test_a_file_found_late_does_not_reorder_the_others(files: list[tuple[str, int]]) -> None:
    listed = sorted((Listed(name, 1, mtime) for name, mtime in files), key=order_key)
    for late in listed:
        assert sorted((f for f in listed if f is not late), key=order_key) == [f for f in listed if f is not late]


def logs(directory: Path, *names: str) -> LogPath:
    directory.mkdir(exist_ok=True)
    for n, name in enumerate(names):
        (directory / name).write_text("x" * (n + 1))
    return LogPath(str(directory), str(directory.parent))


def test_listing_takes_regular_files_of_this_job_only(tmp_path: Path) -> None:
    (tmp_path / "outside_1_x.log").write_text("secret")
    place = logs(tmp_path / "logs", "m_1_cycle0.log", "m_2_cycle0.log", "m_1_cycle1.log")
    (tmp_path / "logs" / "link_1_out.log").symlink_to(tmp_path / "outside_1_x.log")
    (tmp_path / "logs" / "link_1_in.log").symlink_to(tmp_path / "logs" / "m_1_cycle0.log")
    (tmp_path / "logs" / "dir_1_x.log").mkdir()
    os.mkfifo(tmp_path / "logs" / "fifo_1_x.log")
    assert [f.name for f in list_log_files(place, "1", 10)] == ["m_1_cycle0.log", "m_1_cycle1.log"]


def test_of_too_many_files_the_last_ones_are_kept(tmp_path: Path) -> None:
    place = logs(tmp_path / "logs", *(f"m_1_cycle{n}.log" for n in range(20)))
    assert [f.name for f in list_log_files(place, "1", 3)] == ["m_1_cycle17.log", "m_1_cycle18.log", "m_1_cycle19.log"]


def test_jobs_that_share_a_directory_share_one_pass_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"m_{job}_cycle{n}.log" for job in ("1", "12", "3_4", "4") for n in range(2)]
    place = logs(tmp_path / "logs", *names)
    passes = []
    monkeypatch.setattr(os, "listdir", lambda path, real=os.listdir: passes.append(path) or real(path))
    round_ = LogsDirs()
    for job_id in ("1", "12", "3_4", "3", "4", "x", "1"):
        shared, alone = list_log_files(place, job_id, 10, round_), list_log_files(place, job_id, 10)
        assert shared == alone
    assert len(passes) == 1 + 7


def test_a_directory_with_100_000_files_is_bounded_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"m_{job}_cycle{n}.log" for job in range(10_000) for n in range(10)]
    monkeypatch.setattr(os, "listdir", lambda _: names)
    stats = []
    monkeypatch.setattr(os, "lstat", lambda path: stats.append(path) or (_ for _ in ()).throw(FileNotFoundError()))
    round_ = LogsDirs()
    for job in range(1000):
        list_log_files(LogPath("/l", "/"), str(job), 1000, round_)
    assert len(stats) == 10_000


def test_a_directory_that_went_away_is_an_error_of_the_contract(tmp_path: Path) -> None:
    with pytest.raises(LogsDirNotReadable, match="permission denied or not found"):
        list_log_files(LogPath(str(tmp_path / "gone"), str(tmp_path)), "1", 10)


FILES = ("/l/model_1_cycle0.log", "/l/model_1_cycle1.log", "/l/model_1_cycle2.log")


@pytest.mark.parametrize(
    ("terminated", "file", "all_files", "chosen"),
    [
        (True, None, False, FILES[2:]),
        (False, None, False, FILES[2:]),
        (True, None, True, FILES),
        (False, None, True, FILES[:2]),
        (True, "model_1_cycle0.log", False, FILES[:1]),
        (False, "model_1_cycle2.log", False, FILES[2:]),
        (True, "model_1_cycle0.log", True, FILES[:1]),
    ],
)
def test_what_a_get_means(terminated: bool, file: str | None, all_files: bool, chosen: tuple[str, ...]) -> None:
    assert select_files(FILES, terminated, file, all_files) == chosen


@pytest.mark.parametrize("file", ["x.log", "../model_1_cycle0.log", "..", "/l/model_1_cycle0.log", "sub/model_1_cycle0.log", ""])
def test_an_unknown_file_or_a_path_is_not_found(file: str) -> None:
    with pytest.raises(NotFound, match="not found") as caught:
        select_files(FILES, True, file, False)
    assert caught.value.message == f"file '{file}' not found"


@pytest.mark.parametrize("all_files", [True, False])
def test_no_files_yet(all_files: bool) -> None:
    with pytest.raises(NotFound, match="no log files detected yet"):
        select_files((), True, None, all_files)


def test_all_files_of_a_running_job_with_one_file_is_not_found_yet() -> None:
    with pytest.raises(NotFound, match="no log file is complete yet"):
        select_files(FILES[:1], False, None, True)


@pytest.mark.parametrize(("count", "wl_restart", "cycles"), [(3, None, [0, 1, 2]), (3, 2, [2]), (1, 0, [0])])
def test_which_cycles_a_get_means(count: int, wl_restart: int | None, cycles: list[int]) -> None:
    assert list(select_cycles(count, wl_restart)) == cycles


@pytest.mark.parametrize("wl_restart", [1, 5, -1])
def test_a_cycle_beyond_the_count_is_an_invalid_parameter(wl_restart: int) -> None:
    with pytest.raises(InvalidParameter) as caught:
        select_cycles(1, wl_restart)
    assert caught.value.message == f"wl_restart={wl_restart} out of range (file has 1 workload cycle(s))"
