"""Many connections and a mixed load against the real service: what slow clients cost the others.

    python -m bench.connections [--connections 2000] [--seconds 300] [--slow 0.1]

Each connection is a client of its own that asks, reads, thinks and asks again: 80 % answers at hand, 15 % submissions of known
jobs, 5 % logs never seen before. A tenth of them read their replies slowly. It ends with 1 where a reply was 5xx without being
the documented 503, where p99 of the answers at hand is above 250 ms, or where the replicas grew after the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import tempfile
import time
import urllib.parse
from collections import Counter
from pathlib import Path

from bench.door import LOG, fetch, service

P99_MS_MAX = 250.0
GROWTH_MB_MAX = 50
"""What a replica may grow by after a third of the time, MB."""

WARM_UP = 3
"""The first part of so many is not looked at for memory."""

SLOW_BYTES, SLOW_PAUSE_S = 200, 0.05
"""A slow reader takes so many bytes, and then a pause."""


class Load:
    """The clients, and what they saw."""

    def __init__(self, url: str, token: str, logs: Path, args: argparse.Namespace) -> None:
        self._host, self._port = urllib.parse.urlsplit(url).hostname, urllib.parse.urlsplit(url).port
        self._token, self._logs = token, logs
        self._known = str(logs / "known.log")
        self._think_s = args.connections / args.rate
        self._began_at = time.monotonic()
        self._ends_at = self._began_at + args.seconds
        self._numbers = iter(range(10**9))
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.broken: list[tuple[int, str]] = []
        self.took_ms: dict[str, list[float]] = {"cached": [], "submit": [], "cold": []}

    async def client(self, number: int, is_slow: bool) -> None:
        """Ask until the time is over; a connection that breaks is counted and made anew."""
        chance = random.Random(number)
        await asyncio.sleep(chance.random() * self._think_s)
        while time.monotonic() < self._ends_at:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=1024 if is_slow else 65536)
                try:
                    is_open = True
                    while is_open and time.monotonic() < self._ends_at:
                        is_open = await self._ask(chance, reader, writer, is_slow)
                        await asyncio.sleep(chance.expovariate(1 / self._think_s))
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
                self.broken.append((round(time.monotonic() - self._began_at), type(exc).__name__))

    async def _ask(self, chance: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_slow: bool) -> bool:
        """Ask once; tell whether the connection may be used again. HAProxy announces that it closes one, as after a reload."""
        kind = chance.choices(("cached", "submit", "cold"), (80, 15, 5))[0]
        started = time.perf_counter()
        writer.write(self._request(kind))
        async with asyncio.timeout(120):
            head = await reader.readuntil(b"\r\n\r\n")
            took_ms = (time.perf_counter() - started) * 1000  # A slow reader's own slowness is no matter of the service.
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            while is_slow and length > SLOW_BYTES:
                await reader.readexactly(SLOW_BYTES)
                length -= SLOW_BYTES
                await asyncio.sleep(SLOW_PAUSE_S)
            await reader.readexactly(length)
        status = int(head[9:12])
        self.statuses[kind, status] += 1
        if status == 200:
            self.took_ms[kind].append(took_ms)
        return b"\r\nconnection: close\r\n" not in head.lower()

    def _request(self, kind: str) -> bytes:
        path, head = self._known, f"Host: bench\r\nAuthorization: Bearer {self._token}\r\n"
        if kind == "submit":
            body = json.dumps({"log_path": path, "user": "bench", "job_id": "4711"})
            return f"POST /logs HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        if kind == "cold":
            path = str(self._logs / f"cold-{next(self._numbers)}.log")
            Path(path).write_text(LOG[: 4096 - 200] + LOG[-150:])
        return f"GET /logs?log_path={urllib.parse.quote(path)} HTTP/1.1\r\n{head}\r\n".encode()


async def trial(load: Load, pids: list[int], args: argparse.Namespace) -> list[list[int]]:
    """Run all clients; return the memory of the replicas, MB, every few seconds."""
    clients = [asyncio.create_task(load.client(n, n < args.slow * args.connections)) for n in range(args.connections)]
    memory = []
    while not all(client.done() for client in clients):
        memory.append([rss_mb(pid) for pid in pids])
        await asyncio.wait(clients, timeout=max(1.0, args.seconds / 60))
    await asyncio.gather(*clients)
    return memory


def report(load: Load, memory: list[list[int]]) -> bool:
    """Print what was seen; tell whether it is what it must be."""
    for kind, took_ms in load.took_ms.items():
        took_ms.sort()
        seen = {status: n for (k, status), n in sorted(load.statuses.items()) if k == kind}
        middle, tail = (took_ms[int(len(took_ms) * part)] if took_ms else 0.0 for part in (0.5, 0.99))
        print(f"{kind:8}{sum(seen.values()):9} replies {seen}, p50 {middle:.0f} ms, p99 {tail:.0f} ms")
    warm = memory[len(memory) // WARM_UP :]
    growth = [last - first for first, last in zip(warm[0], warm[-1], strict=True)]
    tenths = [sum(memory[len(memory) * n // 10]) for n in range(10)] + [sum(memory[-1])]
    print(f"replicas, MB: {memory[0]} at first, {warm[0]} warm, {warm[-1]} at the end; all together by tenths of the time: {tenths}")
    print(f"connections that broke, by second and fault: {dict(Counter(load.broken))}")
    wrong = sum(n for (_, status), n in load.statuses.items() if status >= 500 and status != 503)
    cached = load.took_ms["cached"]
    return not wrong and bool(cached) and cached[int(len(cached) * 0.99)] <= P99_MS_MAX and max(growth) <= GROWTH_MB_MAX


def rss_mb(pid: int) -> int:
    """Return the resident memory of a process, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def replicas(pid: int) -> list[int]:
    """Return the replicas below the process of a service."""
    parents = {int(p.parent.name): int(p.read_text().rpartition(")")[2].split()[1]) for p in Path("/proc").glob("[0-9]*/stat")}

    def is_below(process: int) -> bool:
        while process and process != pid:
            process = parents.get(process, 0)
        return process == pid

    return [p for p in parents if is_below(p) and Path(f"/proc/{p}/cmdline").read_bytes().startswith(b"ray::ServeReplica")]


def main() -> None:
    """Run the trial against a service of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=300, help="requests per second of all connections together")
    parser.add_argument("--slow", type=float, default=0.1, help="the part of the connections that read slowly")
    args = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files[0], min(files[1], args.connections * 4)), files[1]))
    with tempfile.TemporaryDirectory(prefix="attr-actors-bench-") as name, service(Path(name)) as (url, token, pid):
        logs = Path(name) / "logs"
        (logs / "known.log").write_text(LOG)
        fetch(f"{url}/logs?log_path={urllib.parse.quote(str(logs / 'known.log'))}", token)
        load = Load(url, token, logs, args)
        memory = asyncio.run(trial(load, replicas(pid), args))
    print(f"{args.connections} connections, {args.slow:.0%} slow, {args.seconds:g} s, load of the machine {os.getloadavg()[0]:.1f}")
    raise SystemExit(0 if report(load, memory) else 1)


if __name__ == "__main__":
    main()
