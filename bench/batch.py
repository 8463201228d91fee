"""How a batch grows with its workers, and what a log costs its coordinator: ``python -m bench.batch [LOGS]``.

The control is the same number of processes that only count, because two processors of a shared machine are rarely two.
The coordinator's figure is its own processor time (listing, ledger, rows, results file), workers not included; in local
mode it contains the ledger and the rendering of rows, which the workers of a Ray cluster do.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from attr_actors.batch import Plan, run_batch
from attr_actors.settings import Settings

SEED = 20_261_123
FAILURE = "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
COUNTED = 20_000_000


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
        grown, possible = walls[0] / walls[1], controls[1] / controls[0]
        print(f"from 1 to 2 workers: {grown:.2f}x; the control: {possible:.2f}x; share of what was possible: {grown / possible:.0%}")


if __name__ == "__main__":
    main()
