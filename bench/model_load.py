"""Two hundred analyses whose model takes 2 s each: do the bounds hold, and do cached answers stay fast meanwhile?

    python -m bench.model_load [--logs 200] [--model-s 2] [--calls-max 8]

Starts the service and a model endpoint that only waits. Prints the endpoint's largest concurrency, the throughput against
the bound, and the latency of cached GETs before, during and after, in turns so that a busy machine touches all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

REPO = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 240
ANSWER = {
    "root_cause": "The GPU ran out of memory.",
    "citations": [{"line": 2, "quote": "CUDA out of memory. Tried to allocate"}],
    "category": "cuda_oom",
    "action": "STOP",
    "nodes": [],
}


class SlowModel:
    """A chat endpoint that takes its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.calls = self.under_way = self.under_way_max = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length"))
                await reader.readexactly(length)
                await self._answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        await asyncio.sleep(self._seconds)
        self.under_way -= 1
        message = {"role": "assistant", "content": json.dumps(ANSWER)}
        body = json.dumps(
            {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 900, "completion_tokens": 90}}
        )
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()


def start(place: Path, model_url: str, calls_max: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start the service and wait until it serves."""
    (place / "logs").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "ALLOWED_ROOT": str(place / "logs"),
        "CACHE_FILE": str(place / "ledger.db"),
        "PORT": str(port),
        "LLM_BASE_URL": model_url,
        "LLM_MODEL": "slow",
        "LLM_CALLS_MAX": str(calls_max),
        "RATE_LIMIT_ANALYZE": "1000000/minute",
        "COMPUTE_TIMEOUT": "600",
    }
    env = os.environ | {f"NVRX_ATTRSVC_{k}": v for k, v in settings.items()} | {"LLM_API_KEY": "unused", "PYTHONPATH": str(REPO)}
    with (place / "service.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "attr_actors.cli"], env=env, stdout=log, stderr=log, cwd=place)
    until = time.monotonic() + START_TIMEOUT_S
    while "serves" not in (place / "service.log").read_text():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit((place / "service.log").read_text())
        time.sleep(0.2)
    return process, f"http://127.0.0.1:{port}"


def write_log(place: Path, number: int) -> str:
    """Write a log of its own evidence."""
    path = place / "logs" / f"job_{number}.log"
    steps = "".join(f" iteration {n:8d}/    1000 | lm loss: 4.2E+00 |\n" for n in range(1, 2))
    path.write_text(f"{steps}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {number}.00 GiB. GPU 0 has 79.10 GiB.\n")
    return str(path)


async def cached_latencies(client: httpx.AsyncClient, path: str, seconds: float) -> list[float]:
    """GET a cached answer again and again; return the times in ms."""
    taken = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        (await client.get("/logs", params={"log_path": path})).raise_for_status()
        taken.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.01)
    return taken


async def until(done: Callable[[], bool], within_s: float = 600) -> None:
    """Wait for a condition."""
    for _ in range(int(within_s / 0.05)):
        if done():
            return
        await asyncio.sleep(0.05)
    raise SystemExit("the model was not asked as often as expected")


def show(name: str, taken: list[float]) -> float:
    """Print and return the 99th percentile."""
    cuts = statistics.quantiles(taken, n=100)
    print(f"cached GET {name}: n {len(taken)}, p50 {cuts[49]:.1f} ms, p95 {cuts[94]:.1f} ms, p99 {cuts[98]:.1f} ms")
    return cuts[98]


async def run(arguments: argparse.Namespace, place: Path) -> None:
    """Measure."""
    model = SlowModel(arguments.model_s)
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    process, base = await asyncio.to_thread(start, place, url, arguments.calls_max)
    try:
        async with httpx.AsyncClient(base_url=base, timeout=120) as client:
            await measure(arguments, place, model, client)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 60)
        server.close()


async def measure(arguments: argparse.Namespace, place: Path, model: SlowModel, client: httpx.AsyncClient) -> None:
    """Ask for all logs at once, each four times, and for a cached one all the while."""
    warm = write_log(place, 0)
    await client.get("/logs", params={"log_path": warm})
    await until(lambda: model.calls == 1 and not model.under_way)
    before = await cached_latencies(client, warm, 15)
    paths = [write_log(place, n) for n in range(1, arguments.logs + 1)]
    began = time.perf_counter()
    first = await asyncio.gather(*(client.get("/logs", params={"log_path": path}) for path in paths for _ in range(4)))
    rules_s = time.perf_counter() - began
    rest_s = (arguments.logs - model.calls) * arguments.model_s / arguments.calls_max
    during = await cached_latencies(client, warm, max(4.0, rest_s - 4))
    await until(lambda: model.calls >= arguments.logs + 1 and not model.under_way)
    took_s = time.perf_counter() - began
    after = await cached_latencies(client, warm, 15)
    stats = (await client.get("/stats")).json()["llm"]
    bound = arguments.calls_max / arguments.model_s
    good = sum(reply.is_success for reply in first)
    print(f"{good} of {len(first)} requests for {len(paths)} cold logs were answered with 200, in {rules_s:.1f} s")
    print(f"model calls {model.calls - 1} for {len(paths)} logs, at most {model.under_way_max} at once (bound {arguments.calls_max})")
    print(f"throughput {arguments.logs / took_s:.2f}/s of {bound:.2f}/s = {arguments.logs / took_s / bound:.0%} of the bound")
    quiet = (show("before", before) + show("after", after)) / 2
    print(f"p99 during / quiet: {show('during', during) / quiet:.2f}")
    print({name: stats.get(name) for name in ("answered", "tokens", "waiting", "failed", "overloaded")})


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--model-s", type=float, default=2.0)
    parser.add_argument("--calls-max", type=int, default=8)
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(run(parser.parse_args(), Path(place)))


if __name__ == "__main__":
    main()
