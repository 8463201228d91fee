"""How fast the ledger is at 100,000 entries of about 3 KB: open, lookup, durable single writes, leases, growth and vacuum.

Run: python -m bench.ledger [ENTRIES] [DIRECTORY]. The directory decides what a durable write costs; it must be on the
disk that will hold the ledger, not on a tmpfs.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

from attr_actors.actors.ledger import Ledger
from attr_actors.adapters.ledger_upkeep import vacuum
from attr_actors.models import Action, Analysis, Attribution, Category, Line, Outcome, Recording, Requester, Snapshot
from attr_actors.settings import Settings

LINES = 12
"""Cited lines per answer, so that a stored entry has about 3 KB."""


def answer(seed: int) -> Attribution:
    """Return an answer of a realistic size."""
    lines = tuple(
        Line(line_number=n, byte_offset=n * 120, text=f"[rank{n}]: RuntimeError: {seed:x} " + "NCCL communicator was aborted. " * 3, rank=n)
        for n in range(LINES)
    )
    return Attribution(
        action=Action.RESTART,
        category=Category.NETWORK_NCCL,
        signature="nccl_timeout",
        rule="first_primary",
        root_cause="a collective timed out on rank 3",
        root_lines=lines[:1],
        evidence=lines,
    )


def recording(number: int, mtime_ns: int) -> Recording:
    """Return the recording of the log with this number."""
    analysis = Analysis(
        snapshot=Snapshot(path=f"/logs/team-{number % 97}/job_{number}.log", size=number + 1, mtime_ns=mtime_ns),
        engine="bench",
        cycles=(answer(number),),
        result_id=f"{number:064x}",
        analysed_at=time.time(),
        log_bytes=number,
    )
    return Recording(analysis=analysis, requester=Requester(user="bench", job_id=str(number)))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of the work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def each(work: Callable[..., object], values: Iterable[object]) -> None:
    """Do the work on each value."""
    for value in values:
        work(value)


def report(name: str, count: int, spent: tuple[float, float]) -> None:
    """Print one line of the table."""
    wall, cpu = spent
    print(f"{name:<44} {count / wall:>10,.0f} /s  {wall:>8.3f} s wall  {cpu:>8.3f} s cpu")


def bare_writes(place: str, count: int) -> None:
    """Write rows of 3 KB into a bare SQLite table, one a transaction: what the disk and SQLite alone allow at this moment."""
    connection = sqlite3.connect(os.path.join(place, "bare.db"), isolation_level=None)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)")
    for _ in range(count):
        connection.execute("INSERT INTO rows (body) VALUES (?)", ("x" * 3000,))
    connection.close()


def main(entries: int, place: str) -> None:
    """Fill a ledger and measure it."""
    settings = Settings(allowed_root=place, cache_file=os.path.join(place, "ledger.db"), dataflow_index="bench", _env_file=None)
    now_ns = time.time_ns()
    ledger = Ledger(settings)
    batches = [tuple(recording(n, now_ns) for n in range(first, min(first + 500, entries))) for first in range(0, entries, 500)]
    report("record, 500 a transaction", entries, timed(lambda: each(ledger.record, batches)))
    ledger.close()
    size = os.path.getsize(settings.ledger_file)
    print(f"{entries:,} entries, {size / entries:,.0f} bytes each, {size / 2**20:,.0f} MiB")

    opened: list[Ledger] = []
    report("open (one)", 1, timed(lambda: opened.append(Ledger(settings))))
    ledger = opened[0]
    chosen = random.Random(1).choices(range(entries), k=20_000)
    paths = [f"/logs/team-{n % 97}/job_{n}.log" for n in chosen]
    report("lookup, random", len(paths), timed(lambda: each(ledger.lookup, paths)))
    hot = paths[:200] * 100
    report("lookup, 200 hot paths", len(hot), timed(lambda: each(ledger.lookup, hot)))
    fresh = [recording(entries + n, now_ns) for n in range(4000)]
    report("bare SQLite, one a transaction, durable", 4000, timed(lambda: bare_writes(place, 4000)))
    report("record, one a transaction, durable", len(fresh), timed(lambda: each(ledger.record, [(one,) for one in fresh])))
    report("begin_attempt, durable", 2000, timed(lambda: [ledger.begin_attempt(one.analysis.snapshot, "bench") for one in fresh[:2000]]))

    def deliver() -> None:
        for _ in range(20):
            leased = ledger.lease("elasticsearch", 500, 60)
            ledger.settle(tuple(Outcome(delivery_id=d.delivery_id, state="done") for d in leased))

    report("lease and settle, 500 a transaction", 10_000, timed(deliver))
    report("stats (one)", 1, timed(ledger.stats))
    before, after = vacuum(ledger._db)
    print(f"vacuum: {before / 2**20:,.0f} MiB before, {after / 2**20:,.0f} MiB after")
    ledger.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as directory:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, directory)
