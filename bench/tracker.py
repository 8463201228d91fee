"""The tracker with 100,000 jobs on real files: one round, restart, memory, and how long quick questions wait meanwhile.

    python -m bench.tracker [--jobs 100000] [--directory DIR]

80 % single, 10 % pending (half of them without a file yet), 10 % splitlog with five files each. The ledger is the real
one on disk; the analyzers answer at once. Times are CPU seconds of the whole process, because machines are shared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from attr_actors.actors.ledger import Ledger
from attr_actors.actors.tracker import Tracker
from attr_actors.handles import AnalyzerHandle, LedgerHandle
from attr_actors.models import Action, Analysis, AnalyzeRequest, Attribution, Category, Snapshot, Submission
from attr_actors.settings import Settings

READY = b"x" * 99 + b"\n"
ANSWER = Attribution(action=Action.RESTART, category=Category.UNKNOWN, rule="bench", root_cause="a benchmark")


class DiskLedger:
    """The real ledger, called from this process."""

    def __init__(self, settings: Settings) -> None:
        self.ledger = Ledger(settings)

    async def load_jobs(self, after_path: str, limit: int) -> tuple[str, ...]:
        return await asyncio.to_thread(self.ledger.load_jobs, after_path, limit)

    async def save_jobs(self, jobs: tuple[tuple[str, str], ...], forget: tuple[str, ...]) -> None:
        await asyncio.to_thread(self.ledger.save_jobs, jobs, forget)


class InstantAnalyzer:
    """Answers at once, with the file's identity."""

    def __init__(self) -> None:
        self.answered = 0

    async def analyze(self, request: AnalyzeRequest) -> Analysis:
        self.answered += 1
        found = os.stat(request.path)
        snapshot = Snapshot(path=request.path, size=found.st_size, mtime_ns=found.st_mtime_ns)
        return Analysis(snapshot=snapshot, engine="bench", cycles=(ANSWER,), result_id="0" * 64, analysed_at=0)

    async def start(self, request: AnalyzeRequest) -> None:
        """Nothing to start: the answer comes with analyze()."""


def make_files(root: Path, jobs: int) -> list[Submission]:
    """Write the files and return one submission per job."""
    made = []
    for n in range(jobs):
        place = root / f"{n % 100:02d}"
        place.mkdir(exist_ok=True)
        path = place / f"slurm-{n}.out"
        kind = n % 10
        if kind == 0:
            logs = root / "logs" / str(n)
            logs.mkdir(parents=True)
            for cycle in range(5):
                (logs / f"model_{n}_cycle{cycle}.log").write_bytes(b"line\n")
            path.write_bytes(b"<< START PATHS >>\nLOGS_DIR=%b\n<< END PATHS >>\n" % os.fsencode(logs) + READY * 45)
        elif kind == 1:
            if n % 20 == 1:
                path.write_bytes(b"starting\n")
        else:
            path.write_bytes(READY * 45)
        made.append(Submission(path=str(path), user="bench", job_id=str(n)))
    return made


async def measure(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Run a step and print its wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    print(f"{name:<58} {time.perf_counter() - wall:8.2f} s wall {time.process_time() - cpu:8.2f} s CPU", flush=True)


async def submit_all(tracker: Tracker, submissions: list[Submission], together: int = 64) -> None:
    """Submit with so many calls under way at a time."""
    waiting = iter(submissions)

    async def client() -> None:
        for submission in waiting:
            await tracker.submit(submission)

    await asyncio.gather(*(client() for _ in range(together)))


async def poll_with_probe(tracker: Tracker) -> None:
    """Make one round and ask for health all the while, as the ingress does."""
    waits: list[float] = []
    done = asyncio.Event()

    async def probe() -> None:
        while not done.is_set():
            before = time.perf_counter()
            await tracker.health()
            waits.append(time.perf_counter() - before)
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            waits[-1] += max(0.0, time.perf_counter() - before - 0.002)

    prober = asyncio.create_task(probe())
    await tracker.poll()
    done.set()
    await prober
    waits.sort()
    print(f"  health during the round: {len(waits)} asked, p50 {waits[len(waits) // 2] * 1e3:.1f} ms, "
          f"p99 {waits[int(len(waits) * 0.99)] * 1e3:.1f} ms, max {waits[-1] * 1e3:.1f} ms")  # fmt: skip


async def large_pending(root: Path, settings: Settings) -> None:
    """The case that froze the predecessor: 40 pending jobs of 20 MB each, all growing, and a repeated POST of a tiny job."""
    place = root / "large"
    place.mkdir()
    tracker = Tracker(settings, cast(LedgerHandle, DiskLedger(settings)), cast(list[AnalyzerHandle], [InstantAnalyzer()]))
    paths = [place / f"slurm-9{n:05}.out" for n in range(40)]
    for n, path in enumerate(paths):
        path.write_bytes(b"<< START PATHS >>\n" + b"line of a log that does not tell its layout\n" * 450_000)
        view = await tracker.submit(Submission(path=str(path), job_id=str(n)))
        assert view.mode == "pending"
    tiny = place / "tiny.log"
    tiny.write_text("hello\n")
    waits = []
    for turn in range(200):
        paths[turn % 40].open("ab").write(b"one more line\n")
        rounds = asyncio.create_task(tracker.poll())
        before = time.perf_counter()
        await tracker.submit(Submission(path=str(tiny)))
        waits.append(time.perf_counter() - before)
        await rounds
    waits.sort()
    print(f"repeated POST of a tiny job beside 40 pending logs of 20 MB, a round under way: p50 {waits[100] * 1e3:.1f} ms, "
          f"p99 {waits[198] * 1e3:.1f} ms, max {waits[-1] * 1e3:.1f} ms")  # fmt: skip
    await tracker.stop()


def touch_some(submissions: list[Submission], every: int) -> int:
    """Let some pending and splitlog jobs write, as running jobs do."""
    touched = 0
    for submission in submissions[::every]:
        if os.path.exists(submission.path):
            with open(submission.path, "ab") as f:
                f.write(b"another line\n")
            touched += 1
    return touched


async def run(root: Path, jobs: int) -> None:
    """Measure everything once."""
    wall = time.perf_counter()
    submissions = make_files(root, jobs)
    print(f"{jobs} jobs, files written in {time.perf_counter() - wall:.1f} s; memory {memory_mb():.0f} MB")
    settings = Settings(allowed_root=str(root), cache_file=str(root / "ledger.db"), max_jobs=jobs, poll_interval_s=1e6, call_timeout_s=60)
    disk, analyzers = DiskLedger(settings), [InstantAnalyzer(), InstantAnalyzer()]

    def tracker() -> Tracker:
        return Tracker(settings, cast(LedgerHandle, disk), cast(list[AnalyzerHandle], analyzers))

    first = tracker()
    await first.start()
    await measure("first POST of every job (64 at a time, durable)", lambda: submit_all(first, submissions))
    known = submissions[: min(jobs, 20_000)]
    await measure(f"repeated POST of {len(known)} known jobs", lambda: submit_all(first, known))
    await measure("round: background analyses settle", first.poll)
    await measure("round: nothing changed", lambda: poll_with_probe(first))
    print(f"  {touch_some(submissions, 5)} logs written to")
    await measure("round: every fifth log changed", lambda: poll_with_probe(first))
    print(f"  memory of the process {memory_mb():.0f} MB; {sum(a.answered for a in analyzers)} analyses asked for")
    await first.stop()
    second = tracker()
    await measure("restart: all jobs loaded", second.start)
    assert (await second.jobs(None, 1, 0)).total_counts == (await first.jobs(None, 1, 0)).total_counts
    await second.stop()
    disk.ledger.close()
    await large_pending(root, settings.model_copy(update={"cache_file": str(root / "large.db")}))


def memory_mb() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the benchmark in a fresh directory and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--directory", help="where to make the files; default: the temporary directory")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=args.directory))
    try:
        asyncio.run(run(root, args.jobs))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
