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
import re
import sqlite3
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.door import LOG, service

PAUSE_S = 0.1
"""Between two requests for an answer at hand."""


class Connection:
    """One connection that is kept: plain sockets, because a client library takes more of a processor than the service."""

    def __init__(self, url: str, token: str) -> None:
        self._place = urllib.parse.urlsplit(url)
        self._head = f" HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, query: str) -> tuple[int, float | None]:
        """Return the status and the seconds of Retry-After. Raises OSError, IncompleteReadError, TimeoutError."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._place.hostname, self._place.port)
        reader, writer = self._streams
        writer.write(f"GET {query}{self._head}".encode())
        async with asyncio.timeout(120):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
        pause = re.search(rb"retry-after: (\d+)", head)
        return int(head[9:12]), float(pause[1]) if pause else None

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


class Storm:
    """The clients, and what they saw."""

    def __init__(self, paths: Iterator[str]) -> None:
        self._paths = paths
        self.replies: Counter[str] = Counter()
        self.answered = 0
        self.over = False

    async def ask(self, connection: Connection) -> None:
        """Ask for one path after another until there is none left."""
        for path in self._paths:
            pause_s: float | None = 0.0
            while pause_s is not None:
                await asyncio.sleep(pause_s)
                pause_s = await self._pause_after(connection, path)
        connection.close()

    async def _pause_after(self, connection: Connection, path: str) -> float | None:
        """Ask once; return how long to wait before it is asked again, None where there is no reason to."""
        try:
            status, pause_s = await connection.get(f"/logs?log_path={urllib.parse.quote(path)}")
        except (OSError, asyncio.IncompleteReadError) as exc:  # A TimeoutError is an OSError.
            self.replies[type(exc).__name__] += 1
            connection.close()
            return None
        self.replies[f"{status}{' without Retry-After' if status in (429, 503) and pause_s is None else ''}"] += 1
        self.answered += status == 200
        return pause_s if status in (429, 503) else None

    async def time(self, connection: Connection, query: str) -> list[float]:
        """Return how long an answer at hand took each time, ms, while the storm goes on."""
        took_ms = []
        while not self.over:
            started = time.perf_counter()
            status, _ = await connection.get(query)
            assert status == 200, query
            took_ms.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE_S)
        connection.close()
        return sorted(took_ms)


async def trial(url: str, token: str, logs: Path, args: argparse.Namespace) -> bool:
    """Run the storm and print what was seen; tell whether nothing was lost."""
    known = logs / "known.log"
    known.write_text(LOG)
    at_hand = f"/logs?log_path={urllib.parse.quote(str(known))}"
    connection = Connection(url, token)
    await connection.get(at_hand)
    connection.close()
    storm = Storm(iter([str(logs / f"cold-{number}.log") for number in range(args.paths)]))
    timing = [asyncio.create_task(storm.time(Connection(url, token), query)) for query in (at_hand, "/healthz")]
    started = time.perf_counter()
    await asyncio.gather(*(storm.ask(Connection(url, token)) for _ in range(args.connections)))
    took_s = time.perf_counter() - started
    storm.over = True
    for name, took_ms in zip(("answer at hand", "/healthz"), await asyncio.gather(*timing), strict=True):
        print(f"{name}: p50 {took_ms[len(took_ms) // 2]:.0f} ms, p99 {took_ms[int(len(took_ms) * 0.99)]:.0f} ms of {len(took_ms)}")
    print(f"{args.paths} cold paths in {took_s:.0f} s, replies {dict(storm.replies)}; load of the machine {os.getloadavg()[0]:.1f}")
    return storm.answered == args.paths and set(storm.replies) <= {"200", "429", "503"}


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
    with tempfile.TemporaryDirectory(prefix="attr-actors-bench-") as name:
        with service(Path(name)) as (url, token, _):
            logs = Path(name) / "logs"
            for number in range(args.paths):
                (logs / f"cold-{number}.log").write_text(f"{number}\n{LOG[:3800]}{LOG[-150:]}")
            complete = asyncio.run(trial(url, token, logs, args))
        held = stored(Path(name) / "ledger.db")
        print(f"answers in the ledger: {held} of {args.paths + 1}")
    raise SystemExit(0 if complete and held == args.paths + 1 else 1)


if __name__ == "__main__":
    main()
