"""A storm of logs never seen before against the real service: each is answered or refused, and what is at hand stays fast.

    python -m bench.storm [--paths 10000] [--connections 500]

So many clients each GET one cold path after another. One that is refused (503, 429) waits as long as it is told and asks
again. Meanwhile an answer at hand and /healthz are asked for ten times a second. It ends with 1 where a path got neither
an answer nor a documented refusal, or where the ledger does not hold every answer afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.door import LOG, service

LATENCY_PAUSE_S = 0.1


class Storm:
    """The clients, and what they saw."""

    def __init__(self, client: httpx.AsyncClient, paths: Iterator[str]) -> None:
        self._client = client
        self._paths = paths
        self.statuses: Counter[int] = Counter()
        self.broken: Counter[str] = Counter()
        self.unasked_wait = 0
        self.over = False

    async def ask(self) -> None:
        """Ask for one path after another until there is none left."""
        for path in self._paths:
            while not await self._answered(path):
                pass

    async def _answered(self, path: str) -> bool:
        try:
            reply = await self._client.get("/logs", params={"log_path": path})
        except httpx.HTTPError as exc:
            self.broken[type(exc).__name__] += 1
            return True
        self.statuses[reply.status_code] += 1
        if reply.status_code not in (429, 503):
            return True
        self.unasked_wait += "retry-after" not in reply.headers
        await asyncio.sleep(float(reply.headers.get("retry-after", 1)))
        return False

    async def time(self, query: str) -> list[float]:
        """Return how long an answer at hand took each time, ms, while the storm goes on."""
        took_ms = []
        while not self.over:
            started = time.perf_counter()
            (await self._client.get(query)).raise_for_status()
            took_ms.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(LATENCY_PAUSE_S)
        return sorted(took_ms)


async def trial(url: str, token: str, logs: Path, args: argparse.Namespace) -> bool:
    """Run the storm and print what was seen; tell whether nothing was lost."""
    known = logs / "known.log"
    known.write_text(LOG)
    limits = httpx.Limits(max_connections=args.connections + 2)
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120, limits=limits) as client:
        at_hand = f"/logs?log_path={known}"
        (await client.get(at_hand)).raise_for_status()
        storm = Storm(client, iter([str(logs / f"cold-{number}.log") for number in range(args.paths)]))
        timing = [asyncio.create_task(storm.time(query)) for query in (at_hand, "/healthz")]
        started = time.perf_counter()
        await asyncio.gather(*(storm.ask() for _ in range(args.connections)))
        took_s = time.perf_counter() - started
        storm.over = True
        for name, took_ms in zip(("answer at hand", "/healthz"), await asyncio.gather(*timing), strict=True):
            print(f"{name}: p50 {took_ms[len(took_ms) // 2]:.0f} ms, p99 {took_ms[int(len(took_ms) * 0.99)]:.0f} ms of {len(took_ms)}")
    print(f"{args.paths} cold paths in {took_s:.0f} s, replies {dict(storm.statuses)}, broken {dict(storm.broken)}")
    print(f"refusals without Retry-After: {storm.unasked_wait}; load of the machine {os.getloadavg()[0]:.1f}")
    return not storm.broken and set(storm.statuses) <= {200, 429, 503} and storm.statuses[200] == args.paths and not storm.unasked_wait


def stored(ledger: Path) -> int:
    """Return the number of answers that the ledger's file holds."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as db:
        return int(db.execute("select count(*) from analyses").fetchone()[0])


def main() -> None:
    """Run the storm against a service of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paths", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attr-actors-bench-") as name, service(Path(name)) as (url, token, _):
        logs = Path(name) / "logs"
        for number in range(args.paths):
            (logs / f"cold-{number}.log").write_text(f"{number}\n{LOG[:3800]}{LOG[-150:]}")
        complete = asyncio.run(trial(url, token, logs, args))
        held = stored(Path(name) / "ledger.db")
        print(f"answers in the ledger: {held} of {args.paths + 1}")
    raise SystemExit(0 if complete and held == args.paths + 1 else 1)


if __name__ == "__main__":
    main()
