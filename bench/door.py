"""The door side by side with a bare uvicorn + FastAPI route that returns the same bytes (needs the program ``wrk``).

    python -m bench.door [--seconds 8] [--connections 32]

The service runs with 2 replicas, API keys and rate limits on, as ``nvrx-attrsvc`` starts it. Rows alternate between the
two servers, so that what else the machine does hits both. Compare the columns, not the numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from attr_actors.core.access import KeyRow, hash_token, new_token, render_keys

LOG = (
    "".join(f" iteration {i:8d}/ 10000 | elapsed time per iteration (ms): 510.1 | lm loss: 4.21E+00 |\n" for i in range(10, 500, 10))
    + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB.\n"
)

BARE = """
import sys
from fastapi import FastAPI, Response
import uvicorn
body = open(sys.argv[2], "rb").read()
app = FastAPI()
@app.get("/logs")
async def logs(log_path: str) -> Response:
    return Response(body, media_type="application/json")
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error")
"""

POST_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{{"log_path":"{path}","user":"bench","job_id":"4711"}}'
"""


class Rate(NamedTuple):
    """What one run of wrk measured, and the processor time that the server took per request."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    errors: int


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        print("bench.door needs the program wrk (Debian package wrk); skipped")
        return
    with tempfile.TemporaryDirectory(prefix="attr-actors-bench-") as name:
        place = Path(name)
        with service(place) as (url, token, pid):
            measure(url, token, pid, place, args)


def measure(url: str, token: str, pid: int, place: Path, args: argparse.Namespace) -> None:
    """Run all rows against a running service."""
    log = place / "logs" / "slurm-4711.out"
    log.write_text(LOG)
    query = f"/logs?log_path={urllib.parse.quote(str(log))}"
    body = fetch(url + query, token)
    (place / "body.json").write_bytes(body)
    script = place / "post.lua"
    script.write_text(POST_SCRIPT.format(path=log))
    with bare(place / "body.json") as (bare_url, bare_pid):
        rows: dict[str, list[Rate]] = {"bare GET": [], "cached GET": [], "POST /logs": [], "GET /healthz": []}
        for _ in range(args.rounds):
            rows["bare GET"].append(wrk(bare_url + query, args, token, bare_pid))
            rows["cached GET"].append(wrk(url + query, args, token, pid))
            rows["POST /logs"].append(wrk(url + "/logs", args, token, pid, script))
            rows["GET /healthz"].append(wrk(url + "/healthz", args, token, pid))
        print(f"{len(body)} bytes per reply, {args.connections} connections, median of {args.rounds} x {args.seconds} s\n")
        print(f"{'':14}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'cpu ms':>9}{'errors':>8}")
        for name, rates in rows.items():
            middle = Rate(*(statistics.median(column) for column in zip(*rates, strict=True)))
            print(f"{name:14}{middle.per_s:11.0f}{middle.p50_ms:9.1f}{middle.p99_ms:9.1f}{middle.cpu_ms:9.3f}{middle.errors:8.0f}")
        ratios = [ours.per_s / theirs.per_s for ours, theirs in zip(rows["cached GET"], rows["bare GET"], strict=True)]
        tails = [ours.p99_ms / theirs.p99_ms for ours, theirs in zip(rows["cached GET"], rows["bare GET"], strict=True)]
        work = [ours.cpu_ms / theirs.cpu_ms for ours, theirs in zip(rows["cached GET"], rows["bare GET"], strict=True)]
        print(
            f"\ncached GET against bare: {statistics.median(ratios):.2f} of its requests/s, {statistics.median(tails):.1f} times its p99,"
        )
        print(f"{statistics.median(work):.1f} times its processor time per request; load of the machine {os.getloadavg()[0]:.1f}")
    cold(url, token, place)


def cold(url: str, token: str, place: Path) -> None:
    """Time GETs of logs never seen before, one after another."""
    took_ms = []
    for number in range(100):
        path = place / "logs" / f"cold-{number}.log"
        path.write_text(LOG[: 4096 - 200] + LOG[-150:])
        started = time.perf_counter()
        fetch(f"{url}/logs?log_path={urllib.parse.quote(str(path))}", token)
        took_ms.append((time.perf_counter() - started) * 1000)
    took_ms.sort()
    print(f"cold GET of a 4 KB log, one client: p50 {took_ms[50]:.0f} ms, p95 {took_ms[95]:.0f} ms")


def wrk(url: str, args: argparse.Namespace, token: str, pid: int, script: Path | None = None) -> Rate:
    """Run wrk once against the server whose first process is ``pid``."""
    before_s = cpu_seconds(pid)
    more = ["-s", str(script)] if script else []
    out = subprocess.run(
        ["wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s", "--latency", "-H", f"Authorization: Bearer {token}", *more, url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    errors = int(wrong[1]) if wrong else 0
    errors += sum(map(int, broken.groups())) if broken else 0
    per_s, total = re.search(r"Requests/sec:\s+([\d.]+)", out), re.search(r"(\d+) requests in", out)
    assert per_s
    assert total
    cpu_ms = (cpu_seconds(pid) - before_s) * 1000 / max(1, int(total[1]))
    return Rate(float(per_s[1]), latency(out, "50%"), latency(out, "99%"), cpu_ms, errors)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and all below it have taken, s."""
    parents: dict[int, int] = {}
    taken: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            taken[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_ours(process: int) -> bool:
        while process and process != pid:
            process = parents.get(process, 0)
        return process == pid

    return sum(seconds for process, seconds in taken.items() if is_ours(process))


def latency(out: str, percentile: str) -> float:
    """Return one line of wrk's distribution, ms."""
    found = re.search(rf"\s{percentile}\s+([\d.]+)(us|ms|s)\b", out)
    assert found, out
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


def fetch(url: str, token: str) -> bytes:
    """GET once."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        body: bytes = reply.read()
    return body


@contextlib.contextmanager
def service(place: Path, **environment: str) -> Iterator[tuple[str, str, int]]:
    """Run ``nvrx-attrsvc`` with two replicas and one key; yield its URL, the key and its process id."""
    (place / "logs").mkdir()
    token = new_token()
    key = KeyRow.model_validate({"name": "bench", "sha256": hash_token(token), "scopes": ["admin"]})
    (place / "keys.json").write_text(render_keys([key]))
    port = free_port()
    env = os.environ | {
        "NVRX_ATTRSVC_ALLOWED_ROOT": str(place / "logs"),
        "NVRX_ATTRSVC_CACHE_FILE": str(place / "ledger.db"),
        "NVRX_ATTRSVC_API_KEYS_FILE": str(place / "keys.json"),
        "NVRX_ATTRSVC_PORT": str(port),
        "NVRX_ATTRSVC_REPLICAS_MIN": "2",
        "NVRX_ATTRSVC_RATE_LIMIT_ANALYZE": "100000000/minute",
        "NVRX_ATTRSVC_RATE_LIMIT_SUBMIT": "100000000/minute",
        **environment,
    }
    url = f"http://127.0.0.1:{port}"
    with (place / "service.log").open("w") as log, running([sys.executable, "-m", "attr_actors.cli"], env, log.fileno()) as process:
        wait_until(lambda: "serves" in (place / "service.log").read_text(), process, 120)
        yield url, token, process.pid


@contextlib.contextmanager
def bare(body: Path) -> Iterator[tuple[str, int]]:
    """Run one uvicorn with one FastAPI route; yield its URL and process id."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with running([sys.executable, "-c", BARE, str(port), str(body)], dict(os.environ), subprocess.DEVNULL) as process:
        wait_until(answers, process, 30)
        yield url, process.pid


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program and end it."""
    process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_until(is_true: object, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout_s
    assert callable(is_true)
    while not is_true():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(json.dumps({"error": "the server did not start", "code": process.poll()}))
        time.sleep(0.1)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
