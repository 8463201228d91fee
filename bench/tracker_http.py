"""The ingress while the tracker makes its rounds over 100,000 jobs: how long /healthz and a small POST take over HTTP.

    python -m bench.tracker_http [--jobs 100000] [--seconds 60]

Fills a ledger with jobs on real files, starts the service on it with a short round, and asks all the while. Then the case
that froze the predecessor: 40 pending jobs of 20 MB each, and the time of a repeated POST of a tiny job.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httpx

from attr_actors.actors.tracker import Tracker
from attr_actors.handles import AnalyzerHandle, LedgerHandle
from attr_actors.settings import Settings
from bench.tracker import DiskLedger, InstantAnalyzer, make_files, submit_all

REPO = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 180


async def fill(root: Path, database: Path, jobs: int) -> None:
    """Track the jobs in this process; their rows stay in the ledger."""
    settings = Settings(allowed_root=str(root), cache_file=str(database), max_jobs=jobs + 100, poll_interval_s=1e6, call_timeout_s=60)
    disk, analyzers = DiskLedger(settings), [InstantAnalyzer()]
    tracker = Tracker(settings, cast(LedgerHandle, disk), cast(list[AnalyzerHandle], analyzers))
    await submit_all(tracker, make_files(root, jobs))
    await tracker.poll()
    await tracker.stop()
    disk.ledger.close()


def start(root: Path, database: Path, jobs: int) -> tuple[subprocess.Popen[bytes], httpx.Client]:
    """Start the service on the filled ledger and wait until it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "NVRX_ATTRSVC_ALLOWED_ROOT": str(root),
        "NVRX_ATTRSVC_CACHE_FILE": str(database),
        "NVRX_ATTRSVC_PORT": str(port),
        "NVRX_ATTRSVC_MAX_JOBS": str(jobs + 100),
        "NVRX_ATTRSVC_POLL_INTERVAL_S": "5",
        "NVRX_ATTRSVC_RATE_LIMIT_SUBMIT": "1000000/minute",
        "PYTHONPATH": str(REPO),
    }
    process = subprocess.Popen([sys.executable, "-m", "attr_actors.cli"], env=env, stdout=subprocess.DEVNULL, cwd=database.parent)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if client.get("/healthz", params={"ready": "true"}).status_code == 200:
                return process, client
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit("the service did not start")
        time.sleep(0.2)


def time_calls(name: str, call: Callable[[], httpx.Response], seconds: float) -> None:
    """Call again and again and print how long it took."""
    waits, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.perf_counter()
        reply = call()
        waits.append((time.perf_counter() - before) * 1e3)
        assert reply.status_code == 200, reply.text
        time.sleep(0.005)
    waits.sort()
    print(f"{name:<50} {len(waits):6} calls  p50 {waits[len(waits) // 2]:6.1f} ms  p99 {waits[int(len(waits) * 0.99)]:6.1f} ms  "
          f"max {waits[-1]:6.1f} ms", flush=True)  # fmt: skip


def rounds(client: httpx.Client) -> float:
    """Return how many rounds the tracker has made."""
    return float(client.get("/stats").json().get("polls", {}).get("made", 0))


def add_large_pending(client: httpx.Client, root: Path) -> None:
    """Announce 40 jobs whose logs of 20 MB do not tell their layout yet."""
    place = root / "large"
    place.mkdir()
    for n in range(40):
        path = place / f"slurm-9{n:05}.out"
        path.write_bytes(b"<< START PATHS >>\n" + b"line of a log that is not finished\n" * 600_000)
        reply = client.post("/logs", json={"log_path": str(path), "job_id": str(n)})
        assert reply.json()["mode"] == "pending", reply.text


def main() -> None:
    """Run the benchmark in a fresh directory and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    root = place / "logs"
    root.mkdir()
    process = None
    try:
        asyncio.run(fill(root, place / "ledger.db", args.jobs))
        began = time.monotonic()
        process, client = start(root, place / "ledger.db", args.jobs)
        tiny = root / "tiny.log"
        tiny.write_text("hello\n")

        def post() -> httpx.Response:
            return client.post("/logs", json={"log_path": str(tiny), "user": "bench"})

        while client.get("/jobs", params={"limit": 1}).json()["total_counts"]["single"] < args.jobs * 0.8:
            time.sleep(0.1)
        print(f"the service serves and has loaded {args.jobs} jobs after {time.monotonic() - began:.1f} s (Ray's start included)")
        before = rounds(client)
        time_calls("/healthz during rounds", lambda: client.get("/healthz"), args.seconds)
        time_calls("repeated POST of a tiny job during rounds", post, args.seconds / 4)
        print(f"  rounds meanwhile: {rounds(client) - before:.0f}")
        add_large_pending(client, root)
        time_calls("the same with 40 pending jobs of 20 MB", post, args.seconds / 4)
    finally:
        if process:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
