"""The job book: the mode table of the contract, the life of a job, its limits and its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attr_actors.core.job import NEXT_MODE, Job, Layout, LogFile, owed
from attr_actors.core.job_events import Analyse, Analysed, Effect, Finished, Follow, Forget, Looked, Save, Submitted, Ticked, Warn
from attr_actors.core.job_rows import parse_job, render_job
from attr_actors.core.jobs import JobBook, Limits, check_invariants
from attr_actors.core.looking import Bounds, Known, Look, take_look
from attr_actors.core.markers import Markers
from attr_actors.core.paths import LogPath
from attr_actors.core.splitlog import Listed
from attr_actors.errors import AttrError, InvalidParameter, JobLimitReached, LogsDirNotReadable, OutsideRoot
from attr_actors.models import Intent, JobMode, JobView, Submission

LIMITS = Limits(max_jobs=3, pending_bytes=4096, pending_age_max_s=7 * 86400, terminated_age_max_s=3600, job_age_max_s=180 * 86400)
READY = "x" * 5000 + "\n"


@pytest.fixture
def book() -> Any:
    made = JobBook(LIMITS)
    yield made
    check_invariants(made)


def look(number: int = 1, size: int | None = 5000, mtime_ns: int = 1, *, logs_dir: str | None = None, **more: Any) -> Look:
    files = tuple(Listed(name, size, 1) for name, size in more.pop("files", {}).items())
    markers = more.pop("markers", Markers(starts=1, logs_dir=logs_dir) if logs_dir else Markers())
    return Look(number, size, mtime_ns, markers, logs_dir, files, **more)


def post(book: JobBook, path: str = "/l/a.log", at: float = 0.0, seen: Look | None = None, **more: Any) -> tuple[Effect, ...]:
    return book.apply(Submitted(Submission(path=path, **more), seen or look(), at))


def analyses(effects: tuple[Effect, ...]) -> list[str]:
    return [e.name for e in effects if isinstance(e, Analyse)]


def view(book: JobBook, path: str = "/l/a.log") -> JobView:
    return book.jobs[path].view()


def due(book: JobBook, at: float) -> list[str]:
    return [path for path in book.jobs if book.is_due(path, at)]


# The mode table of POST /logs, over real files.

BLOCK = "<< START PATHS >>\n{dir}<< END PATHS >>\n"
HERE = "LOGS_DIR={root}/logs\n"


@pytest.mark.parametrize(
    ("job_id", "content", "expected"),
    [
        pytest.param(None, None, JobMode.SINGLE, id="no id, missing"),
        pytest.param(None, "", JobMode.SINGLE, id="no id, empty"),
        pytest.param(None, "short\n", JobMode.SINGLE, id="no id, small"),
        pytest.param(None, READY, JobMode.SINGLE, id="no id, ready"),
        pytest.param(None, BLOCK.format(dir=HERE) + READY, JobMode.SINGLE, id="no id, START PATHS and LOGS_DIR"),
        pytest.param(None, BLOCK.format(dir="") + READY, JobMode.SINGLE, id="no id, START PATHS"),
        pytest.param("7", None, JobMode.PENDING, id="id, missing"),
        pytest.param("7", "", JobMode.PENDING, id="id, empty"),
        pytest.param("7", "x" * 4095, JobMode.PENDING, id="id, under 4 KiB"),
        pytest.param("7", BLOCK.format(dir=HERE), JobMode.PENDING, id="id, under 4 KiB with LOGS_DIR"),
        pytest.param("7", "x" * 4096, JobMode.SINGLE, id="id, 4 KiB"),
        pytest.param("7", READY, JobMode.SINGLE, id="id, ready"),
        pytest.param("7", "echo << START PATHS >>\n" + HERE + READY, JobMode.SINGLE, id="id, ready, a line that is no marker"),
        pytest.param("7", BLOCK.format(dir=HERE) + READY, JobMode.SPLITLOG, id="id, ready, LOGS_DIR"),
        pytest.param("7", READY + BLOCK.format(dir=HERE), JobMode.SPLITLOG, id="id, ready, LOGS_DIR after a preamble"),
        pytest.param("7", BLOCK.format(dir="LOGS_DIR=/etc\n") + BLOCK.format(dir=HERE) + READY, JobMode.SPLITLOG, id="id, the last wins"),
        pytest.param("7", BLOCK.format(dir="LOGS_DIR={root}/later\n") + READY, JobMode.PENDING, id="id, LOGS_DIR not made yet"),
        pytest.param("7", BLOCK.format(dir="") + READY, JobMode.SINGLE, id="id, a block without LOGS_DIR"),
        pytest.param("7", "<< START PATHS >>\n" + READY, JobMode.PENDING, id="id, a block that is still open"),
        pytest.param("7", BLOCK.format(dir="LOGS_DIR={root}/a-file\n") + READY, LogsDirNotReadable, id="id, LOGS_DIR is no directory"),
        pytest.param("7", BLOCK.format(dir="LOGS_DIR=/etc\n") + READY, OutsideRoot, id="id, LOGS_DIR outside"),
        pytest.param("7", BLOCK.format(dir="LOGS_DIR={root}/logs/../..\n") + READY, OutsideRoot, id="id, LOGS_DIR with dots"),
        pytest.param("7", BLOCK.format(dir="LOGS_DIR={root}/way-out\n") + READY, OutsideRoot, id="id, LOGS_DIR is a link out"),
    ],
)
@pytest.mark.parametrize("intent", [Intent.TRACK_ONLY, Intent.PROGRESSIVE])
def test_the_mode_table(
    tmp_path: Path, book: JobBook, job_id: str | None, content: str | None, expected: JobMode | type[AttrError], intent: Intent
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "way-out").symlink_to("/etc")
    log = LogPath(str(tmp_path / "slurm-7.out"), str(tmp_path))
    if content is not None:
        Path(log.path).write_text(content.replace("{root}", str(tmp_path)))
    seen = take_look(log, job_id, Known(), Bounds(2**20, 100), 1)
    if isinstance(expected, JobMode):
        post(book, log.path, seen=seen, job_id=job_id, intent=intent)
        assert view(book, log.path).mode is expected
    else:
        with pytest.raises(expected):
            post(book, log.path, seen=seen, job_id=job_id, intent=intent)
        assert book.jobs == {}


@pytest.mark.parametrize(
    ("seen", "mode"),
    [
        (look(size=None), JobMode.PENDING),
        (look(size=0), JobMode.PENDING),
        (look(size=10), JobMode.SINGLE),
        (look(size=10, logs_dir="/l/logs"), JobMode.SPLITLOG),
        (look(size=10, markers=Markers(starts=1, logs_dir="/l/never-made")), JobMode.SINGLE),
        (look(size=10, markers=Markers(starts=1, block_open=True)), JobMode.SINGLE),
    ],
)
@pytest.mark.parametrize("end", ["terminal", "get"])
def test_at_the_end_a_small_log_is_no_longer_too_small(book: JobBook, seen: Look, mode: JobMode, end: str) -> None:
    post(book, job_id="7", seen=look(size=None, number=0), intent=Intent.TERMINAL if end == "terminal" else Intent.TRACK_ONLY)
    if end == "terminal":
        post(book, job_id="7", seen=seen, intent=Intent.TERMINAL)
    else:
        book.apply(Finished("/l/a.log", seen, 1.0))
    assert view(book).mode is mode
    assert view(book).terminated is (end == "terminal" or mode is not JobMode.PENDING)


def test_the_transition_table_is_total_and_no_mode_goes_back() -> None:
    rank = [JobMode.PENDING, JobMode.SINGLE, JobMode.SPLITLOG]
    assert set(NEXT_MODE) == {(mode, found) for mode in JobMode for found in Layout}
    assert all(rank.index(after) >= rank.index(before) for (before, _), after in NEXT_MODE.items())


# The life of a job.


def test_the_first_job_id_wins_and_a_different_one_warns(book: JobBook) -> None:
    post(book, job_id="7")
    warned = [e for e in post(book, job_id="8") if isinstance(e, Warn)]
    assert view(book).job_id == "7"
    assert "'8'" in warned[0].message
    assert book.counts["submissions.job_id_conflicts"] == 1


def test_a_job_id_that_comes_later_is_taken(book: JobBook) -> None:
    post(book)
    post(book, job_id="8")
    assert view(book).job_id == "8"


def test_a_repeat_refreshes_the_user_but_unknown_is_no_news(book: JobBook) -> None:
    post(book, user="ann")
    post(book, user="bob")
    post(book)
    assert view(book).user == "bob"


def test_cycle_id_comes_from_the_request_or_else_from_the_name(book: JobBook) -> None:
    post(book, "/l/m_7_cycle3.log")
    assert view(book, "/l/m_7_cycle3.log").cycle_id == 3
    post(book, "/l/m_7_cycle3.log", cycle_id=4)
    assert view(book, "/l/m_7_cycle3.log").cycle_id == 4
    with pytest.raises(InvalidParameter, match="cycle_id=3 conflicts"):
        post(book, "/l/m_7_cycle3.log", cycle_id=3)


def test_start_paths_without_job_id_and_several_logs_dirs_warn_once(book: JobBook) -> None:
    marked = look(markers=Markers(starts=1, logs_dir="/l/b", logs_dir_changes=1))
    assert [type(e) for e in post(book, seen=marked)] == [Warn, Warn, Save]
    assert post(book, seen=marked) == ()


def test_only_a_change_is_saved(book: JobBook) -> None:
    assert [type(e) for e in post(book)] == [Save]
    assert post(book, seen=look(2)) == ()
    assert [type(e) for e in post(book, seen=look(3, size=6000))] == [Save]


def test_a_look_that_waited_does_not_overwrite_a_later_one(book: JobBook) -> None:
    post(book, job_id="7", seen=look(5, logs_dir="/l/d", files={"m_7_cycle0.log": 1, "m_7_cycle1.log": 1}))
    book.apply(Looked("/l/a.log", look(4, logs_dir="/l/d", files={"m_7_cycle0.log": 1})))
    assert view(book).log_files == ("/l/d/m_7_cycle0.log", "/l/d/m_7_cycle1.log")


def test_a_file_is_complete_when_a_newer_one_exists_or_the_job_has_terminated(book: JobBook) -> None:
    two = look(1, logs_dir="/l/d", files={"m_7_cycle0.log": 9, "m_7_cycle1.log": 9})
    assert analyses(post(book, job_id="7", seen=two)) == ["m_7_cycle0.log"]
    book.apply(Analysed("/l/a.log", "m_7_cycle0.log", (9, 1)))
    assert analyses(book.apply(Looked("/l/a.log", two))) == []
    assert analyses(book.apply(Finished("/l/a.log", two, 1.0))) == ["m_7_cycle1.log"]


def test_a_complete_file_that_changes_is_owed_again_and_an_empty_one_never(book: JobBook) -> None:
    post(book, job_id="7", seen=look(1, logs_dir="/l/d", files={"m_7_cycle0.log": 9, "m_7_cycle1.log": 0, "m_7_cycle2.log": 0}))
    book.apply(Analysed("/l/a.log", "m_7_cycle0.log", (9, 1)))
    grown = look(2, logs_dir="/l/d", files={"m_7_cycle0.log": 10, "m_7_cycle1.log": 0, "m_7_cycle2.log": 0})
    assert analyses(book.apply(Looked("/l/a.log", grown))) == ["m_7_cycle0.log"]


def test_terminal_is_idempotent_and_a_single_log_is_analysed_once_per_content(book: JobBook) -> None:
    assert analyses(post(book, intent=Intent.TERMINAL, at=5.0)) == ["a.log"]
    book.apply(Analysed("/l/a.log", "a.log", (5000, 1)))
    assert post(book, intent=Intent.TERMINAL, at=6.0) == ()
    assert book.jobs["/l/a.log"].terminated_at == 5.0
    assert analyses(post(book, intent=Intent.TERMINAL, seen=look(2, mtime_ns=2))) == ["a.log"]


def test_a_requeued_job_that_is_posted_again_lives_again(book: JobBook) -> None:
    post(book, intent=Intent.TERMINAL)
    post(book)
    assert not view(book).terminated


def test_a_vanished_log_keeps_the_job_and_what_was_listed(book: JobBook) -> None:
    post(book, job_id="7", seen=look(1, logs_dir="/l/d", files={"m_7_x.log": 9}))
    book.apply(Looked("/l/a.log", look(2, size=None)))
    assert (view(book).mode, view(book).log_files) == (JobMode.SPLITLOG, ("/l/d/m_7_x.log",))


def test_a_directory_that_may_not_be_read_any_more_is_counted_by_the_clock_and_told_to_clients(book: JobBook) -> None:
    post(book, job_id="7", seen=look(1, logs_dir="/l/d", files={"m_7_x.log": 9}))
    closed = look(2, markers=Markers(starts=1, logs_dir="/l/d"), fault=LogsDirNotReadable("permission denied"))
    assert book.apply(Looked("/l/a.log", closed)) == ()
    assert book.counts["permission_errors.logs_dir"] == 1
    with pytest.raises(LogsDirNotReadable):
        book.apply(Finished("/l/a.log", closed, 1.0))
    assert not view(book).terminated


def test_events_of_a_forgotten_job_do_nothing(book: JobBook) -> None:
    for event in (Looked("/x", look()), Finished("/x", look(), 1.0), Analysed("/x", "x", (1, 1))):
        assert book.apply(event) == ()


def follows(effects: tuple[Effect, ...]) -> list[str]:
    return [e.log for e in effects if isinstance(e, Follow)]


def test_the_log_of_a_progressive_job_is_followed_while_it_grows_and_the_job_lives(book: JobBook) -> None:
    assert follows(post(book, intent=Intent.PROGRESSIVE)) == ["/l/a.log"]
    assert due(book, 0.0) == ["/l/a.log"]
    assert follows(book.apply(Looked("/l/a.log", look(2)))) == []
    assert follows(book.apply(Looked("/l/a.log", look(3, size=6000)))) == ["/l/a.log"]
    assert follows(post(book, intent=Intent.TERMINAL, seen=look(4, size=7000))) == []
    assert follows(post(book, intent=Intent.TRACK_ONLY, seen=look(5, size=8000))) == []


def test_of_a_progressive_splitlog_job_the_file_that_is_being_written_is_followed(book: JobBook) -> None:
    files = {"m_7_cycle0.log": 9}
    assert follows(post(book, job_id="7", intent=Intent.PROGRESSIVE, seen=look(logs_dir="/l/d", files=files))) == ["/l/d/m_7_cycle0.log"]
    files["m_7_cycle1.log"] = 1
    assert follows(book.apply(Looked("/l/a.log", look(2, logs_dir="/l/d", files=files)))) == ["/l/d/m_7_cycle1.log"]


# Limits and ages.


def test_the_limit_refuses_new_jobs_only(book: JobBook) -> None:
    for n in range(3):
        post(book, f"/l/{n}.log")
    post(book, "/l/0.log")
    with pytest.raises(JobLimitReached):
        post(book, "/l/3.log")
    assert len(book.jobs) == 3


DAY = 86400.0


@pytest.mark.parametrize(
    ("make", "age_s"),
    [
        pytest.param({"job_id": "7", "seen": look(size=None)}, 7 * DAY, id="pending: a week"),
        pytest.param({"seen": look(mtime_ns=0)}, 180 * DAY, id="any: half a year"),
        pytest.param({"seen": look(mtime_ns=0, size=0), "intent": Intent.TERMINAL}, 3600, id="terminated: an hour"),
        pytest.param({"seen": look(mtime_ns=500 * 10**9, size=0), "intent": Intent.TERMINAL}, 4100, id="terminated, written to later"),
        pytest.param({"seen": look(mtime_ns=0), "intent": Intent.TERMINAL}, 7 * DAY, id="terminated, analysis owed: a week"),
    ],
)
def test_a_job_is_forgotten_at_its_age_limit_and_not_before(book: JobBook, make: dict[str, Any], age_s: float) -> None:
    post(book, **make)
    assert book.apply(Ticked(age_s - 1, tuple(book.jobs))) == ()
    assert book.apply(Ticked(age_s, tuple(book.jobs))) == (Forget("/l/a.log"),)
    assert book.jobs == {}


def test_the_clock_looks_only_at_jobs_that_may_change(book: JobBook) -> None:
    post(book, "/l/single.log", seen=look(size=0))
    post(book, "/l/pending.log", job_id="7", seen=look(size=None))
    post(book, "/l/split.log", job_id="8", seen=look(logs_dir="/l/d"))
    assert due(book, 0.0) == ["/l/pending.log", "/l/split.log"]
    post(book, "/l/split.log", intent=Intent.TERMINAL, seen=look(2, logs_dir="/l/d", mtime_ns=0))
    post(book, "/l/single.log", intent=Intent.TERMINAL, seen=look(2, size=0, mtime_ns=0))
    assert due(book, 0.0) == ["/l/pending.log"]
    assert due(book, 3600.0) == ["/l/single.log", "/l/pending.log", "/l/split.log"]  # Were they written to since?


def test_owed_work_keeps_a_terminated_job_on_the_clock(book: JobBook) -> None:
    post(book, intent=Intent.TERMINAL)
    assert due(book, 0.0) == ["/l/a.log"]
    assert [f.name for f in owed(book.jobs["/l/a.log"])] == ["a.log"]


# Rows.


def test_a_job_survives_its_row() -> None:
    job = Job(
        "/l/ü.log",
        "ann",
        "7",
        0,
        1.5,
        JobMode.SPLITLOG,
        terminated_at=2.5,
        progressive=True,
        size=5,
        mtime_ns=1_790_000_000_123_456_789,
        markers=Markers(9, 8, 7, True, 6, True, "/l/d", 5, 4, 3),
        logs_dir="/l/d",
        files=(LogFile("a", 1, 2, (1, 2)), LogFile("b", 3, 4)),
    )
    assert parse_job(render_job(job)) == job


@pytest.mark.parametrize("row", ["", "[]", "{}", '{"v":2}', '{"v":1}', '{"v":1,"mode":"x"}', "null"])
def test_a_foreign_row_is_a_value_error(row: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_job(row)


# Logs that were not read through yet.


def long_look(number: int, offset: int, **more: Any) -> Look:
    return look(number, 10**9, markers=Markers(offset=offset, starts=1, logs_dir="/l/d"), **more)


def test_a_log_that_was_not_read_through_is_pending_on_the_clock_and_keeps_its_progress(book: JobBook) -> None:
    post(book, seen=long_look(1, 10, logs_dir="/l/d"), job_id="7", intent=Intent.TERMINAL)
    assert (view(book).mode, view(book).terminated, due(book, 0.0)) == (JobMode.PENDING, True, ["/l/a.log"])
    book.apply(Looked("/l/a.log", long_look(2, 500)))
    assert parse_job(render_job(book.jobs["/l/a.log"])).known.markers.offset == 500
    done = book.apply(Looked("/l/a.log", long_look(3, 10**9, logs_dir="/l/d", files={"m_7_cycle0.log": 5})))
    assert (view(book).mode, analyses(done)) == (JobMode.SPLITLOG, ["m_7_cycle0.log"])


def test_the_last_file_is_not_the_end_before_the_log_was_read_through(book: JobBook) -> None:
    post(book, seen=look(logs_dir="/l/d", files={"m_7_cycle0.log": 5}), job_id="7")
    ended = post(book, seen=long_look(2, 10, logs_dir="/l/d", files={"m_7_cycle0.log": 5}), job_id="7", intent=Intent.TERMINAL)
    assert (view(book).mode, analyses(ended), due(book, 0.0)) == (JobMode.SPLITLOG, [], ["/l/a.log"])


def test_without_a_job_id_a_long_log_is_single_at_once(book: JobBook) -> None:
    post(book, seen=long_look(1, 10))
    assert (view(book).mode, due(book, 0.0)) == (JobMode.SINGLE, [])
