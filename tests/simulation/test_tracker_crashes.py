"""kill -9 of the tracker at every step of a job's life: no job lost, no file analysed twice, none forgotten."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from attr_actors.core.job import owed
from attr_actors.core.job_rows import parse_job
from attr_actors.models import Intent, JobMode, JobView, Submission
from tests.tracker_world import World, abandon, paths_block


class Fuse:
    """Ends the tracker's process at its n-th call to another actor, before or after the call took effect."""

    def __init__(self) -> None:
        self.calls = 0
        self.at: int | None = None
        self.after = False
        self.blown = asyncio.Event()

    def set(self, calls_from_now: int, after: bool) -> None:
        self.at, self.after = self.calls + calls_from_now, after
        self.blown.clear()

    async def guard(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return await call()
        if self.after:
            await call()
        self.blown.set()
        return await asyncio.Event().wait()  # A killed process hears no reply.


class Fused:
    """An actor's handle with the fuse in its line."""

    def __init__(self, actor: object, fuse: Fuse, pause: Callable[[], Awaitable[None]]) -> None:
        self._actor, self._fuse, self._pause = actor, fuse, pause

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            await self._pause()
            return await self._fuse.guard(lambda: getattr(self._actor, name)(*args))

        return call


class CrashWorld(World):
    """A world whose tracker dies when the fuse blows; clients repeat their request, as the real ones do."""

    def __init__(self, root: Path, rng: random.Random | None = None) -> None:
        self.fuse = Fuse()
        self.crashes = 0
        self.rng = rng
        self.acknowledged: dict[str, JobView] = {}
        super().__init__(root)

    def _tracker(self) -> Any:
        plain = (self.ledger, self.analyzers)
        self.ledger = Fused(self.ledger, self.fuse, self.pause)  # type: ignore[assignment]
        self.analyzers = [Fused(a, self.fuse, self.pause) for a in self.analyzers]  # type: ignore[misc]
        try:
            return super()._tracker()
        finally:
            self.ledger, self.analyzers = plain

    async def pause(self) -> None:
        for _ in range(self.rng.randrange(4) if self.rng else 0):
            await asyncio.sleep(0)

    async def survive(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do something with the tracker; when it dies meanwhile, start a new one and do it again."""
        while True:
            task, blown = asyncio.create_task(work()), asyncio.create_task(self.fuse.blown.wait())  # type: ignore[arg-type]
            await asyncio.wait({task, blown}, return_when=asyncio.FIRST_COMPLETED)
            dead, answered = blown.done(), task.done()
            result = task.result() if answered else None
            if dead:
                self.crashes += 1
                self.fuse.blown.clear()
                await self.kill()
            blown.cancel()
            if answered:
                return result

    async def kill(self) -> None:
        old = self.tracker
        current = asyncio.current_task()
        for task in [t for t in asyncio.all_tasks() if t not in (current, *self.clients)]:
            task.cancel()
        await asyncio.sleep(0)
        old._looks.close()
        self.tracker = self._tracker()

    clients: tuple[asyncio.Task[Any], ...] = ()

    async def post(self, path: str, **more: Any) -> JobView:
        view: JobView = await self.survive(lambda: self.tracker.submit(Submission(path=path, **more)))
        self.acknowledged[path] = view
        return view

    async def poll(self) -> None:
        await self.survive(lambda: self.tracker.poll())

    async def settle(self) -> None:
        """Let the clock go round until nothing is owed."""
        for _ in range(10):
            await self.poll()
            await self.survive(lambda: self.drained())
            await self.survive(lambda: self.tracker._writer.settle_all())
            if not any(owed(j) for j in self.tracker._book.jobs.values()):
                return
        raise AssertionError("work is still owed after ten rounds")

    def check(self, files: set[str]) -> None:
        assert set(self.acknowledged) <= set(self.tracker._book.jobs), "a job is lost"
        assert {path: parse_job(row) for path, row in self.ledger.rows.items()} == self.tracker._book.jobs
        analysed = Counter(key for a in self.analyzers for key in a.analysed.elements())
        assert set(analysed.values()) <= {1}, f"analysed twice: {analysed}"
        assert {Path(path).name for path, _, _ in analysed} == files
        asked = Counter(request.path for a in self.analyzers for request in a.requests)
        assert max(asked.values()) <= 2 + self.crashes, f"asked too often: {asked}"  # Twice: one file changes in its life.


async def life(w: CrashWorld) -> None:
    """One of everything: announced, promoted, three cycles, a requeue, a single log, the end."""
    split, single = str(w.root / "slurm-7.out"), w.write("slurm-12.out", "x" * 5000)
    assert (await w.post(split, job_id="7", user="ann")).mode is JobMode.PENDING
    assert (await w.post(single, job_id="12")).mode is JobMode.SINGLE
    w.splitlog({"m_7_cycle0.log": "a"})
    await w.poll()
    w.write("logs/m_7_cycle1.log", "b")
    await w.poll()
    assert (await w.post(single, intent=Intent.TERMINAL)).terminated
    w.append("slurm-7.out", paths_block(w.root / "logs"))
    assert (await w.post(split, job_id="7")).sched_restarts == 2
    w.write("logs/m_7_cycle2.log", "c")
    await w.settle()
    final = await w.survive(lambda: w.tracker.finish(split))
    assert [Path(p).name for p in final.log_files] == ["m_7_cycle0.log", "m_7_cycle1.log", "m_7_cycle2.log"]
    w.write("slurm-12.out", "y" * 6000)
    await w.post(single, intent=Intent.TERMINAL)
    await w.settle()
    w.check({"m_7_cycle0.log", "m_7_cycle1.log", "m_7_cycle2.log", "slurm-12.out"})


def fresh(root: Path) -> Path:
    root.mkdir()
    return root


def test_a_kill_at_any_call_of_a_jobs_life_loses_nothing(tmp_path: Path) -> None:
    async def once(at: int, after: bool, root: Path) -> bool:
        w = CrashWorld(root)
        w.fuse.set(at, after)
        await life(w)
        await abandon(w.tracker)
        return w.crashes > 0

    for after in (False, True):
        at = 1
        while asyncio.run(once(at, after, fresh(tmp_path / f"{after}-{at}"))):
            at += 1
        assert at > 15, "the life of a job has more steps than that"


@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_moments_among_many_jobs_lose_nothing(tmp_path: Path, seed: int) -> None:
    async def body() -> None:
        rng = random.Random(seed)
        w = CrashWorld(tmp_path, rng)
        names = set()
        for step in range(25):
            if rng.random() < 0.4:
                w.fuse.set(rng.randrange(1, 8), rng.random() < 0.5)
            job = rng.randrange(5)
            path = str(tmp_path / f"slurm-{job}.out")
            match rng.randrange(5):
                case 0 | 1:
                    await w.post(path, job_id=str(job), intent=rng.choice(list(Intent)))
                case 2:
                    (tmp_path / "logs").mkdir(exist_ok=True)
                    w.write(path, paths_block(tmp_path / "logs") + "x" * 5000)
                case 3:
                    names.add(f"m_{job}_cycle{step}.log")
                    w.write(f"logs/m_{job}_cycle{step}.log", "text")
                case 4:
                    await w.poll()
        w.fuse.at = None
        for path in w.acknowledged:
            await w.survive(lambda path=path: w.tracker.finish(path))
        await w.settle()
        jobs = w.tracker._book.jobs.values()
        split = {j.job_id for j in jobs if j.mode is JobMode.SPLITLOG}
        singles = {Path(j.path).name for j in jobs if j.mode is JobMode.SINGLE}
        assert not singles, "each log that was written names a LOGS_DIR"
        w.check({n for n in names if n.split("_")[1] in split})
        await abandon(w.tracker)

    asyncio.run(body())
