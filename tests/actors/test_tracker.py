"""The tracker around the job book: durable replies, group commit, background analyses, recovery."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attr_actors.actors import looks
from attr_actors.core import looking
from attr_actors.errors import InvalidParameter, JobLimitReached, LedgerFault, LogsDirNotReadable, NotRegular, OutsideRoot, Unavailable
from attr_actors.handles import pick
from attr_actors.models import Intent, JobMode, JobView, Submission
from tests.tracker_world import World, paths_block


def post(path: str, **more: Any) -> Submission:
    return Submission(path=path, **more)


@pytest.fixture
def in_world(tmp_path: Path) -> Callable[..., None]:
    def run(scenario: Callable[[World], Awaitable[None]], **settings: Any) -> None:
        async def body() -> None:
            world = World(tmp_path, **settings)
            try:
                await scenario(world)
            finally:
                await world.close()

        asyncio.run(body())

    return run


def test_a_reply_means_that_the_job_is_saved(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        view = await w.tracker.submit(post(w.write("a.log", "hello\n"), user="ann"))
        assert (view.mode, view.user) == (JobMode.SINGLE, "ann")
        assert json.loads(w.ledger.rows[view.path])["user"] == "ann"

    in_world(scenario)


def test_a_tracker_that_is_stopped_at_any_step_of_its_start_leaves_nothing_running(tmp_path: Path) -> None:
    async def scenario(steps: int) -> None:
        world = World(tmp_path)
        for _ in range(steps):
            await asyncio.sleep(0)
        await world.tracker.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for steps in range(6):
        asyncio.run(scenario(steps))


def test_jobs_that_arrive_together_are_saved_together(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        paths = [w.write(f"{i}.log", "x\n") for i in range(200)]
        w.ledger.gate = asyncio.Event()
        replies = asyncio.gather(*(w.tracker.submit(post(p)) for p in paths))
        await until(lambda: len(w.tracker._book.jobs) == 200)
        w.ledger.gate.set()
        await replies
        assert len(w.ledger.rows) == 200
        assert w.ledger.saves <= 2  # The one that was under way, and one for all that came meanwhile.

    in_world(scenario)


def test_many_submissions_are_one_save_and_each_has_its_own_answer(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        good = [w.write(f"{i}.log", "x\n") for i in range(50)]
        folder = str(Path(good[0]).parent)
        await w.tracker.submit(post(good[0], cycle_id=1))
        saves = w.ledger.saves
        answers = await w.tracker.submit_many((*map(post, good), post(folder), post(good[0], cycle_id=2), post(good[1], user="ann")))
        assert [a.path for a in answers[:50] if isinstance(a, JobView)] == good
        assert [type(a) for a in answers[50:]] == [NotRegular, InvalidParameter, JobView]
        assert w.ledger.saves == saves + 1
        assert json.loads(w.ledger.rows[good[1]])["user"] == "ann"

    in_world(scenario)


def test_of_many_submissions_those_that_could_not_be_saved_are_told_so(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        known, new = w.write("a.log", "x\n"), w.write("b.log", "x\n")
        await w.tracker.submit(post(known))
        w.ledger.fault = LedgerFault("disk full")
        answers = await w.tracker.submit_many((post(known), post(new)))
        assert [type(a) for a in answers] == [JobView, LedgerFault]
        assert new not in w.ledger.rows
        w.ledger.fault = None
        assert [type(a) for a in await w.tracker.submit_many((post(known), post(new)))] == [JobView, JobView]
        assert new in w.ledger.rows

    in_world(scenario)


def test_of_many_submissions_a_slow_one_is_to_be_submitted_alone(in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(w: World) -> None:
        mended, take = threading.Event(), looks.take_look

        def slow(log: Any, *more: Any) -> Any:
            if log.path.endswith("slow.log"):
                mended.wait(10)
            return take(log, *more)

        monkeypatch.setattr(looks, "take_look", slow)
        fast, late = w.write("fast.log", "x\n"), w.write("slow.log", "x\n")
        answers = await w.tracker.submit_many((post(fast), post(late)))
        mended.set()
        assert [type(a) for a in answers] == [JobView, type(None)]
        assert (await w.tracker.submit(post(late))).path == late

    in_world(scenario)


def test_a_repeat_of_an_unchanged_job_writes_nothing(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = w.write("a.log", "x\n")
        first = await w.tracker.submit(post(path, user="ann"))
        saves = w.ledger.saves
        assert await w.tracker.submit(post(path)) == first
        assert w.ledger.saves == saves

    in_world(scenario)


def test_a_job_whose_save_failed_is_not_acknowledged_by_a_repeat(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        await w.tracker.start()
        path = w.write("a.log", "x\n")
        w.ledger.fault = LedgerFault("the disk is full")
        for _ in range(2):
            with pytest.raises(LedgerFault):
                await w.tracker.submit(post(path))
        assert "jobs could not be saved" in (await w.tracker.health()).issues
        w.ledger.fault = None
        await w.tracker.submit(post(path))
        assert path in w.ledger.rows
        assert (await w.tracker.health()).issues == ()

    in_world(scenario)


def test_a_client_that_goes_away_does_not_undo_the_save(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        await w.tracker.start()
        w.ledger.gate = asyncio.Event()
        path = w.write("a.log", "x\n")
        call = asyncio.create_task(w.tracker.submit(post(path)))
        await until(lambda: w.tracker._writer._saving)
        call.cancel()
        w.ledger.gate.set()
        await until(lambda: path in w.ledger.rows)

    in_world(scenario)


def test_all_jobs_are_there_after_a_restart(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        before = [await w.tracker.submit(post(w.write(f"{i}.log", "x\n"), user=f"u{i}")) for i in range(5)]
        before.append(await w.tracker.submit(post(w.splitlog({"m_7_cycle0.log": "a"}), job_id="7")))
        await w.restart()
        assert [await w.tracker.find(v.path) for v in before] == before
        page = await w.tracker.jobs(None, 10, 0)
        assert page.total_counts == {JobMode.PENDING: 0, JobMode.SINGLE: 5, JobMode.SPLITLOG: 1}

    in_world(scenario)


def test_jobs_are_refused_while_the_ledger_cannot_be_read_and_served_afterwards(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        w.ledger.fault = LedgerFault("locked")
        with pytest.raises(LedgerFault):
            await w.tracker.find("/x")
        assert (await w.tracker.health()).issues == ("the jobs are not loaded yet: locked",)
        w.ledger.fault = None
        assert await w.tracker.find("/x") is None

    in_world(scenario)


def test_an_unreadable_row_is_left_alone_and_counted(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        w.ledger.rows["/b"] = '{"v": 99}'
        view = await w.tracker.submit(post(w.write("a.log", "x\n")))
        await w.restart()
        assert (await w.tracker.jobs(None, 10, 0)).jobs == (view,)
        assert (await w.tracker.stats()).counts["jobs.unreadable_rows"] == 1
        assert "/b" in w.ledger.rows

    in_world(scenario)


def test_terminal_starts_the_analysis_at_the_addressed_analyzer(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = w.write("slurm-12.out", "boom\n")
        view = await w.tracker.submit(post(path, user="ann", job_id="12", intent=Intent.TERMINAL))
        assert (view.mode, view.terminated) == (JobMode.SINGLE, True)
        await w.drained()
        right = pick(w.analyzers, path)
        assert right.started == [path]
        assert [(r.requester.user, r.requester.job_id) for r in right.requests] == [("ann", "12")]
        await w.tracker.submit(post(path, intent=Intent.TERMINAL))
        await w.drained()
        assert w.started == w.analysed == ["slurm-12.out"]

    in_world(scenario)


def test_track_only_starts_nothing(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        await w.tracker.submit(post(w.write("a.log", "boom\n")))
        await w.drained()
        assert w.started == w.analysed == []

    in_world(scenario)


def test_an_analysis_that_its_analyzer_could_not_take_is_made_up_for_by_the_next_round(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        for analyzer in w.analyzers:
            analyzer.fault = Unavailable("restarting")
        await w.tracker.submit(post(w.write("a.log", "boom\n"), intent=Intent.TERMINAL))
        await w.drained()
        for analyzer in w.analyzers:
            analyzer.fault = None
        await w.restart()
        await w.tracker.poll()
        await w.drained()
        assert w.analysed == ["a.log"]
        await w.tracker.poll()
        await w.drained()
        assert w.analysed == ["a.log"]

    in_world(scenario)


def test_a_splitlog_job_has_its_complete_files_analysed_and_the_last_one_after_the_end(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = w.splitlog({"m_7_cycle0.log": "a", "m_7_cycle1.log": "b"})
        view = await w.tracker.submit(post(path, job_id="7"))
        assert (view.mode, view.logs_dir, view.sched_restarts) == (JobMode.SPLITLOG, str(w.root / "logs"), 1)
        await w.drained()
        assert w.analysed == ["m_7_cycle0.log"]
        w.write("logs/m_7_cycle2.log", "c")
        await w.tracker.poll()
        await w.drained()
        assert w.analysed == ["m_7_cycle0.log", "m_7_cycle1.log"]
        final = await w.tracker.finish(path)
        assert final
        assert final.terminated
        assert [Path(p).name for p in final.log_files] == [f"m_7_cycle{n}.log" for n in range(3)]
        await w.drained()
        assert w.analysed == ["m_7_cycle0.log", "m_7_cycle1.log", "m_7_cycle2.log"]
        found = await w.tracker.find(path)
        assert found
        assert found.files_analyzed == 3
        assert {r.requester.cycle_id for a in w.analyzers for r in a.requests} == {0, 1, 2}

    in_world(scenario)


def test_a_pending_job_is_promoted_when_its_log_tells(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = str(w.root / "slurm-7.out")
        assert (await w.tracker.submit(post(path, job_id="7"))).mode is JobMode.PENDING
        w.splitlog({"m_7_cycle0.log": "a"})
        await w.tracker.poll()
        found = await w.tracker.find(path)
        assert found
        assert found.mode is JobMode.SPLITLOG
        assert (await w.tracker.stats()).counts["deferred.total_splitlog"] == 1
        assert json.loads(w.ledger.rows[path])["mode"] == "splitlog"

    in_world(scenario)


def test_a_refused_submission_leaves_no_trace(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        outside = w.write("slurm-1.out", paths_block(Path("/etc")) + "x" * 5000)
        (w.root / "not-a-dir").write_text("")
        closed = w.write("slurm-2.out", paths_block(w.root / "not-a-dir") + "x" * 5000)
        for path, error in ((outside, OutsideRoot), (closed, LogsDirNotReadable), (str(w.root), NotRegular)):
            with pytest.raises(error):
                await w.tracker.submit(post(path, job_id="1"))
        assert w.ledger.rows == {}
        assert (await w.tracker.stats()).counts["permission_errors.logs_dir"] == 2

    in_world(scenario)


def test_a_repeated_post_reads_no_other_jobs_log(in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = looking.read_markers

    def counted(log: Any, *more: Any) -> Any:
        read.append(log.path)
        return real(log, *more)

    monkeypatch.setattr(looking, "read_markers", counted)

    async def scenario(w: World) -> None:
        tiny = w.write("tiny.log", "x\n")
        await w.tracker.submit(post(tiny))
        for n in range(40):
            view = await w.tracker.submit(post(w.write(f"slurm-{n}.out", "<< START PATHS >>\n" + "x" * 5000 + "\n"), job_id=str(n)))
            assert view.mode is JobMode.PENDING
        read.clear()
        w.append("tiny.log", "y\n")
        await w.tracker.submit(post(tiny))
        assert read == [tiny]
        read.clear()
        w.append("slurm-3.out", "z\n")
        await w.tracker.poll()
        assert read == [str(w.root / "slurm-3.out")]

    in_world(scenario)


def test_the_job_limit_refuses_new_jobs_and_serves_known_ones(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        known = w.write("a.log", "x\n")
        await w.tracker.submit(post(known))
        with pytest.raises(JobLimitReached):
            await w.tracker.submit(post(w.write("b.log", "x\n")))
        await w.tracker.submit(post(known))
        assert (await w.tracker.health()).issues == ("the job limit is reached: 1",)

    in_world(scenario, max_jobs=1)


def test_a_conflicting_cycle_id_is_refused(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = w.write("a.log", "x\n")
        await w.tracker.submit(post(path, cycle_id=1))
        with pytest.raises(InvalidParameter):
            await w.tracker.submit(post(path, cycle_id=2))

    in_world(scenario)


def test_pages_are_newest_first_and_filtered(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        singles = [(await w.tracker.submit(post(w.write(f"{i}.log", "x\n")))).path for i in range(5)]
        pending = (await w.tracker.submit(post(w.write("9.log", "x\n"), job_id="9"))).path
        page = await w.tracker.jobs(JobMode.SINGLE, 2, 1)
        assert [j.path for j in page.jobs] == [singles[3], singles[2]]
        assert [j.path for j in (await w.tracker.jobs(JobMode.PENDING, 10, 0)).jobs] == [pending]

    in_world(scenario)


def test_old_jobs_are_forgotten_by_memory_and_ledger(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = str(w.root / "never.out")
        await w.tracker.submit(post(path, job_id="1"))
        w.now += w.settings.pending_age_max_s
        await w.tracker.poll()
        assert await w.tracker.find(path) is None
        assert path not in w.ledger.rows

    in_world(scenario)


async def until(condition: Callable[[], Any], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - The condition is another component's inner state.
            await asyncio.sleep(0.001)


def test_one_odd_log_neither_stops_the_clock_nor_hides_other_jobs(in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    real = looks.take_look

    def odd(log: Any, *more: Any) -> Any:
        if log.path.endswith("slurm-1.out") and odd_now:
            raise ZeroDivisionError("a defect")
        return real(log, *more)

    odd_now: list[bool] = []
    monkeypatch.setattr(looks, "take_look", odd)

    async def scenario(w: World) -> None:
        paths = [str(w.root / f"slurm-{n}.out") for n in range(3)]
        for n, path in enumerate(paths):
            await w.tracker.submit(post(path, job_id=str(n)))
            w.write(f"slurm-{n}.out", "x" * 5000)
        odd_now.append(True)
        await w.tracker.poll()
        page = await w.tracker.jobs(JobMode.PENDING, 10, 0)
        assert [j.path for j in page.jobs] == [paths[1]]
        assert (await w.tracker.stats()).counts["looks.failed"] == 1
        odd_now.clear()
        await w.tracker.poll()
        assert (await w.tracker.jobs(JobMode.PENDING, 10, 0)).jobs == ()

    in_world(scenario)


def test_a_file_system_that_hangs_is_said_so_and_ends_no_round(in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(looks, "take_look", lambda *_: free.wait(10))

    async def scenario(w: World) -> None:
        with pytest.raises(Unavailable, match="did not answer within"):
            await w.tracker.submit(post(w.write("a.log", "x\n")))
        assert (await w.tracker.stats()).counts["looks.too_slow"] == 1
        free.set()

    in_world(scenario, file_timeout_s=0.05)


def test_a_save_under_way_is_no_fault(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        await w.tracker.start()
        w.ledger.gate = asyncio.Event()
        call = asyncio.create_task(w.tracker.submit(post(w.write("a.log", "x\n"))))
        await until(lambda: w.tracker._writer._saving)
        assert (await w.tracker.health()).issues == ()
        w.ledger.gate.set()
        await call

    in_world(scenario)


def long_log(w: World, mib: int = 5) -> str:
    """Write a log whose last LOGS_DIR, the right one, stands at its end."""
    w.write("logs/m_7_cycle0.log", "x\n")
    w.write("old/m_7_cycle0.log", "x\n")
    return w.write("slurm-7.out", paths_block(w.root / "old") + "line of text, \n" * (mib << 16) + paths_block(w.root / "logs"))


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "Bounds", partial(looking.Bounds, look_bytes=2**20))


@pytest.mark.usefixtures("short_looks")
def test_a_long_log_is_read_on_behind_the_reply_and_over_a_restart(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = long_log(w)
        assert (await w.tracker.submit(post(path, job_id="7", intent=Intent.TERMINAL))).mode is JobMode.PENDING
        assert json.loads(w.ledger.rows[path])["markers"][0] > 2**19
        await w.restart()
        await until(lambda: w.tracker._book.modes[JobMode.SPLITLOG] == 1)
        await w.drained()
        view = await w.tracker.find(path)
        assert view is not None
        assert (view.logs_dir, view.sched_restarts, w.analysed) == (str(w.root / "logs"), 2, ["m_7_cycle0.log"])
        assert [a for twin in w.analyzers for a in twin.analysed if str(w.root / "old") in a[0]] == []

    in_world(scenario, marker_head_bytes=4096)


@pytest.mark.usefixtures("short_looks")
def test_a_final_question_waits_until_the_log_was_read_through(in_world: Callable[..., None]) -> None:
    async def scenario(w: World) -> None:
        path = long_log(w)
        await w.tracker.submit(post(path, job_id="7"))
        view = await w.tracker.finish(path)
        assert view is not None
        assert (view.mode, view.logs_dir, view.terminated) == (JobMode.SPLITLOG, str(w.root / "logs"), True)

    in_world(scenario, marker_head_bytes=4096)


def test_threads_that_are_stuck_in_looks_are_said_so(in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    free, hangs = threading.Event(), threading.Event()
    real = looks.take_look

    def slow(*args: Any) -> Any:
        if hangs.is_set():
            free.wait(10)
        return real(*args)

    monkeypatch.setattr(looks, "take_look", slow)

    async def scenario(w: World) -> None:
        path = str(w.root / "slurm-7.out")
        await w.tracker.submit(post(path, job_id="7"))
        hangs.set()
        with pytest.raises(Unavailable):
            await w.tracker.submit(post(path, job_id="7"))
        await w.tracker.poll()
        said = (await w.tracker.health()).issues
        free.set()
        assert len(said) == 2
        assert said[0].endswith("does not answer")
        assert said[1] == "1 of 1 threads of the rounds are stuck in a file system"
        await asyncio.sleep(0.2)
        assert (await w.tracker.health()).issues == ()

    in_world(scenario, file_timeout_s=0.1, tracker_threads=1)
