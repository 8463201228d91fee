"""Batches on a Ray cluster of three nodes: nodes and drivers die, and every log still has exactly one row."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from tests.api.conftest import OOM_LOG
from tests.api.test_second_opinion import GOOD
from tests.e2e.conftest import free_port
from tests.model_server import Step, answer, refusal, serving

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Of Ray's test cluster.

REPO = Path(__file__).resolve().parent.parent.parent
LOGS = int(os.environ.get("ATTR_ACTORS_BATCH_LOGS", "2000"))
GB = float(os.environ.get("ATTR_BATCH_GB", "0.4"))
"""Number and gigabytes of the logs of the trial by kill; 20 for the record."""
SEED = 20_261_123
SIZES = (1_000, 50_000_000)
DEADLINE_S = float(os.environ.get("ATTR_ACTORS_BATCH_DEADLINE_S", "240"))
STEADY = b"".join(b"step %d of 120000 loss 2.%02d lr 1e-4 elapsed 0.51 s\n" % (step, step % 97) for step in range(20_000))
ENDS = [OOM_LOG, "[node17] NVRM: Xid (PCI:0000:4e:00): 79, pid=1, GPU has fallen off the bus.\n", "training is done\n"]
PLAIN = """
import sys, time
from attr_actors.batch_work import analyse_logs
from attr_actors.settings import Settings
paths, engine = sys.stdin.read().splitlines(), Settings.load(allowed_root="/").engine
analyse_logs(engine, paths[:1], 60)
started = time.perf_counter()
analyse_logs(engine, paths, 600)
print(time.perf_counter() - started)
"""
"""One plain process that does nothing but scan: what one processor can do, without Ray, ledger and results file."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes of one processor each that take jobs; this process stays outside."""
    if ray.is_initialized():
        ray.shutdown()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}  # Another cluster may have the usual ones.
    head = {"num_cpus": 1, "include_dashboard": True, **ports}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    wait_for_jobs(nodes)
    yield nodes
    nodes.shutdown()


def wait_for_jobs(nodes: Cluster) -> None:
    """Wait until the cluster takes jobs: the agent that starts them is up some time after its node."""
    client, deadline = JobSubmissionClient(f"http://{nodes.head_node.webui_url}"), time.monotonic() + DEADLINE_S
    while True:
        try:
            client.submit_job(entrypoint="true")
            return
        except RuntimeError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def draw_sizes(number: int, total: float) -> list[int]:
    """Return sizes from 1 KB to 50 MB, log-uniform but for the total: fewer large ones make it less, more of them make it more."""
    chances = [random.Random(SEED + i).random() for i in range(number)]
    low, high, bend = math.log(SIZES[0]), math.log(SIZES[1]), 1.0

    def drawn() -> list[int]:
        return [SIZES[1], *(int(math.exp(low + chance**bend * (high - low))) for chance in chances[1:])]

    while sum(drawn()) > total and bend < 100:
        bend *= 1.05
    while sum(drawn()) < total and bend > 0.1:
        bend /= 1.05
    return drawn()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "logs"
    place.mkdir()
    for number, size in enumerate(draw_sizes(LOGS, GB * 1e9)):
        with (place / f"slurm-{number}.out").open("wb") as file:
            file.write(STEADY * (size // len(STEADY)) + STEADY[: size % len(STEADY)])
            file.write(f"\n{ENDS[number % len(ENDS)]}{number}\n".encode())
    (place / "empty.log").touch()
    yield place
    shutil.rmtree(place)


def submission(cluster: Cluster, logs: Path, out: Path) -> list[str]:
    """Return the command that submits a batch as a job. The code travels as the working directory."""
    code = out.parent / "code"
    if not code.exists():
        for package in ("attr_actors", "serve_app"):
            shutil.copytree(REPO / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    job = ["job", "submit", "--address", f"http://{cluster.head_node.webui_url}", "--working-dir", str(code)]
    batch = [sys.executable, "-m", "attr_actors.cli", "batch", str(logs), "--out", str(out), "--json"]
    return [str(Path(sys.executable).with_name("ray")), *job, "--", "env", f"XDG_STATE_HOME={out.parent / 'state'}", *batch]


def kill_driver(out: Path) -> None:
    """Kill the job's driver, wherever Ray runs it."""
    drivers = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"attr_actors.cli" in words and os.fsencode(out) in words and b"submit" not in words:
                drivers.append(int(process.name))
    assert drivers
    for driver in drivers:
        os.kill(driver, signal.SIGKILL)


def command(cluster: Cluster, logs: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    argv = [sys.executable, "-m", "attr_actors.cli", "batch", str(logs), "--out", str(out), "--address", cluster.address, "--json"]
    return argv, {**os.environ, "PYTHONPATH": str(REPO), "XDG_STATE_HOME": str(out.parent / "state")}


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def wait_for_rows(out: Path, run: subprocess.Popen[str], number: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not out.exists() or out.read_bytes().count(b"\n") < number:
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.long
@pytest.mark.timeout(2 * DEADLINE_S + 300)
def test_a_node_and_then_the_driver_die_and_every_log_has_one_row(cluster: Cluster, logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    submit = submission(cluster, logs, out)
    victim = cluster.add_node(num_cpus=1)
    first = subprocess.Popen(submit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_rows(out, first, 1)
    cluster.remove_node(victim, allow_graceful=False)
    wait_for_rows(out, first, LOGS // 3)
    kill_driver(out)
    first.communicate(timeout=DEADLINE_S)
    finished = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    again = subprocess.run(submit, capture_output=True, text=True, timeout=DEADLINE_S)
    said = json.loads(next(line for line in again.stdout.splitlines() if line.startswith("{")))
    assert (said["logs"], said["kept"], said["answered"]) == (LOGS + 1, len(finished), LOGS + 1 - len(finished))
    assert out.read_bytes().splitlines(keepends=True)[: len(finished)] == finished
    assert Counter(row["log_path"] for row in rows(out)) == {str(path): 1 for path in logs.iterdir()}
    assert {row["error_code"] for row in rows(out)} == {None, "empty_file"}
    assert len({row["attribution"]["category"] for row in rows(out) if row["attribution"]}) == len(ENDS)
    runs = rows(out)[: len(finished)], [row for row in rows(out)[len(finished) :] if not row["reused"]]
    print(f"\n{len(finished)} rows before the kill, {LOGS + 1 - sum(map(len, runs))} more from the ledger, {len(runs[1])} answered anew")
    print_throughput([[row for row in run if row["attribution"]] for run in runs])


def plain_rates(parts: list[list[dict[str, Any]]]) -> list[float]:
    """Return what plain processes scan, one for each part and all at once, MB/s: what the processors can do together."""
    plain = [subprocess.Popen([sys.executable, "-c", PLAIN], stdin=PIPE, stdout=PIPE, cwd=REPO, text=True) for _ in parts]
    for process, part in zip(plain, parts, strict=True):
        assert process.stdin
        process.stdin.write("\n".join(row["log_path"] for row in part))
        process.stdin.close()
    told = [process.stdout.read() for process in plain if process.stdout]
    assert [process.wait() for process in plain] == [0] * len(plain)
    return [sum(row["log_bytes"] for row in part) / 1e6 / float(seconds) for part, seconds in zip(parts, told, strict=True)]


def print_throughput(runs: list[list[dict[str, Any]]]) -> None:
    """Print what both runs scanned per second, with a node dying in between, and what the processors could."""
    took_s = sum(max(row["analysed_at"] for row in run) - min(row["analysed_at"] - row["scan_s"] for row in run) for run in runs)
    scanned = [row for run in runs for row in run]
    megabytes, cpus = sum(row["log_bytes"] for row in scanned) / 1e6, min(3, os.cpu_count() or 1)
    possible = sum(plain_rates([scanned[n::cpus] for n in range(cpus)]))
    print(f"{megabytes:.0f} MB in {took_s:.1f} s: {megabytes / took_s:.0f} MB/s, {len(scanned) / took_s:.0f} logs/s")
    print(f"{cpus} plain processes could do {possible:.0f} MB/s: {megabytes / took_s / possible:.0%}; load {os.getloadavg()[0]:.1f}")


@pytest.mark.timeout(300)
def test_the_model_is_asked_through_one_gate_with_and_without_a_running_service(cluster: Cluster, tmp_path: Path) -> None:
    import asyncio

    from attr_actors import AnalyzerConfig, LogAnalyzer

    logs, numbers = tmp_path / "logs", range(40)
    logs.mkdir()
    for number in numbers:
        (logs / f"{number}.log").write_text(OOM_LOG.replace("79.10", f"79.{number}"))
    together = threading.Event()

    def script(request: dict[str, Any], n: int) -> Step:
        if server.under_way == 3:
            together.set()
        return answer(**GOOD) if together.wait(60) else refusal(500)

    async def serve_and_ask(service_settings: dict[str, str]) -> dict[str, float]:
        config = AnalyzerConfig(str(logs), cluster.address, cache_file=str(tmp_path / "ledger.db"), **service_settings)
        async with LogAnalyzer(config) as service:
            await asyncio.to_thread(ask, "served.jsonl")
            return (await service.get_stats())["llm"]

    def ask(out: str) -> None:
        argv, environment = command(cluster, logs, tmp_path / out)
        done = subprocess.run([*argv, "--model"], env=environment | asking, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        assert {row["attribution"]["source"] for row in rows(tmp_path / out)} == {"model"}, done.stdout

    with serving(script) as server:
        fields = {"llm_base_url": server.url, "llm_model": "m", "llm_calls_max": "3", "llm_call_timeout_s": "120", "llm_deadline_s": "120"}
        asking = {"LLM_API_KEY": "k", **{f"NVRX_ATTRSVC_{name.upper()}": value for name, value in fields.items()}}
        ask("own.jsonl")
        assert (len(server.requests), server.under_way_max) == (len(numbers), 3)
        ask("own.jsonl")
        assert len(server.requests) == len(numbers)
        try:
            counted = asyncio.run(serve_and_ask({**fields, "llm_api_key": "k"}))
        finally:
            ray.shutdown()
        assert counted["answered"] == len(numbers)  # Its gate let the batch's workers ask.
        assert (len(server.requests), server.under_way_max) == (2 * len(numbers), 3)


@pytest.mark.timeout(300)
def test_the_running_services_ledger_is_shared_both_ways(cluster: Cluster, tmp_path: Path) -> None:
    import asyncio

    from attr_actors import AnalyzerConfig, LogAnalyzer

    logs, out = tmp_path / "logs", tmp_path / "r.jsonl"
    logs.mkdir()
    for number in range(5):
        (logs / f"{number}.log").write_text(OOM_LOG + f"{number}\n")
    argv, environment = command(cluster, logs, out)

    async def main() -> float:
        config = AnalyzerConfig(allowed_root=str(logs), ray_address=cluster.address, cache_file=str(tmp_path / "ledger.db"))
        async with LogAnalyzer(config) as service:
            served = await service.analyze(str(logs / "0.log"))
            done = await asyncio.to_thread(subprocess.run, argv, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
            assert done.returncode == 0, done.stderr
            known = {row["log_path"]: row for row in rows(out)}
            assert [path for path, row in known.items() if row["reused"]] == [str(logs / "0.log")]
            for path, row in known.items():
                answer = await service.analyze(path)
                assert answer.attribution
                assert answer.attribution.model_dump(mode="json") == row["attribution"]
            assert served.result.result_id == known[str(logs / "0.log")]["result_id"]
            return float((await service.get_stats())["compute"]["completed"])

    try:
        assert asyncio.run(main()) == 1  # The batch did the other four, and the service takes them from the ledger.
    finally:
        ray.shutdown()
