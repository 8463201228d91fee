"""How a batch grows with its workers, and what a log costs its coordinator: ``python -m bench.batch [LOGS]``.

The control is the same number of processes that only count, because two processors of a shared machine are rarely two.
The coordinator's figure is its own processor time (listing, ledger, rows, results file), workers not included; in local
mode it contains the ledger and the rendering of rows, which the workers of a Ray cluster do. The last line is the
coordinator alone, as on a cluster: chunks out, pickled answers in, rows appended and summed up; without Ray's own share.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import cast

from attr_actors.batch import Plan, _work, run_batch
from attr_actors.batch_chunks import CHUNK_LOGS
from attr_actors.batch_files import FoundLog, ResultsFile
from attr_actors.batch_work import Answer, Job, render_answer
from attr_actors.core.result_rows import ResultRow
from attr_actors.core.summary import Summary
from attr_actors.models import EngineConfig
from attr_actors.settings import Settings

SEED = 20_261_123
FAILURE = "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
COUNTED = 20_000_000
COORDINATED = 50_000


def write_logs(place: Path, number: int) -> int:
    """Write seeded logs of 1 KB to 8 MB, most of them small; return their bytes."""
    chance = random.Random(SEED)
    total = 0
    for name in range(number):
        steps = int(chance.paretovariate(0.6) * 20) % 120_000
        text = "".join(f"step {step} of 120000 loss 2.{step % 97:02} lr 1e-4 elapsed 0.51 s\n" for step in range(steps)) + FAILURE
        (place / f"slurm-{name}.out").write_text(text)
        total += len(text)
    return total


def count(_: int) -> int:
    """Keep one processor busy for a second or so."""
    return sum(range(COUNTED))


def control(workers: int) -> float:
    """Return work units per second of processes that only count."""
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        list(pool.map(count, range(workers)))
        started = time.perf_counter()
        list(pool.map(count, range(4 * workers)))
        return 4 * workers / (time.perf_counter() - started)


def batch(logs: Path, out: Path, workers: int) -> tuple[float, float]:
    """Return the wall time of a batch after its workers are warm, and the coordinator's processor time, s."""
    settings = Settings.load(allowed_root="/", cache_file=str(out.with_suffix(".db")))
    first: list[float] = []

    def watch(*_: int):  # type: ignore[no-untyped-def]
        return lambda digests: first.append(time.perf_counter())

    before = time.process_time()
    asyncio.run(run_batch(Plan(str(logs), str(out), local=True, post=True, workers=workers), settings, watch))
    return first[-1] - first[0], time.process_time() - before


class Canned:
    """Workers that answer at once with the rows of an earlier run."""

    def __init__(self, results: Path) -> None:
        rows = [ResultRow.model_validate_json(line) for line in results.read_bytes().splitlines()]
        self._answers = [render_answer(row) for row in (rows * CHUNK_LOGS)[:CHUNK_LOGS]]
        self._pickled: dict[int, bytes] = {}

    def cpus(self) -> int:
        """Return the size of the cluster that is looked at."""
        return 1000

    async def answer(self, job: Job, logs: Sequence[FoundLog]) -> list[Answer]:
        """Unpickle the answers, as they come from a worker."""
        await asyncio.sleep(0)
        if len(logs) not in self._pickled:
            self._pickled[len(logs)] = pickle.dumps(self._answers[: len(logs)])
        return cast(list[Answer], pickle.loads(self._pickled[len(logs)]))


async def coordinate(workers: Canned, out: Path, number: int) -> float:
    """Return the coordinator's processor time for so many small logs, s."""
    summary, logs = Summary(), [FoundLog(f"/logs/{n}", size=1000) for n in range(number)]
    before = time.process_time()
    with ResultsFile(str(out)) as results:
        async for answers in _work(workers, Job(EngineConfig(), "e", 1.0), logs):
            results.append(answer.row for answer in answers)
            for answer in answers:
                summary.add(answer.digest)
    return time.process_time() - before


def main() -> None:
    """Print one line per number of workers, and the ratios."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as place:
        logs = Path(place, "logs")
        logs.mkdir()
        total = write_logs(logs, number)
        print(f"{number} logs, {total / 1e9:.2f} GB, seed {SEED}")
        walls, controls = [], []
        for workers in (1, 2):
            wall_s, own_s = batch(logs, Path(place, f"{workers}.jsonl"), workers)
            controls.append(control(workers))
            walls.append(wall_s)
            rates = f"{number / wall_s:8.1f} logs/s  {total / wall_s / 1e6:8.1f} MB/s"
            print(f"{workers} workers: {rates}  coordinator {own_s / number * 1e3:.2f} ms/log")
        alone_s = asyncio.run(coordinate(Canned(Path(place, "1.jsonl")), Path(place, "alone.jsonl"), COORDINATED))
        grown, possible = walls[0] / walls[1], controls[1] / controls[0]
        print(f"from 1 to 2 workers: {grown:.2f}x; the control: {possible:.2f}x; share of what was possible: {grown / possible:.0%}")
        print(f"coordinator alone, 1,000 workers: {alone_s / COORDINATED * 1e6:.0f} us/log; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
