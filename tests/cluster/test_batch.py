"""Batches on a Ray cluster of three nodes: nodes and drivers die, and every log still has exactly one row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.api.conftest import OOM_LOG

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Of Ray's test cluster.

REPO = Path(__file__).resolve().parent.parent.parent
LOGS = int(os.environ.get("ATTR_ACTORS_BATCH_LOGS", "600"))
"""Logs of the trial by kill; raise it for a longer one."""
DEADLINE_S = 240


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes of one processor each; this process stays outside."""
    if ray.is_initialized():
        ray.shutdown()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    place = tmp_path / "logs"
    place.mkdir()
    for number in range(LOGS):
        (place / f"slurm-{number}.out").write_text(OOM_LOG + f"{number}\n")
    (place / "big.log").write_text(OOM_LOG + "steady line of a training run\n" * 2_000_000)
    (place / "empty.log").touch()
    return place


def command(cluster: Cluster, logs: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    argv = [sys.executable, "-m", "attr_actors.cli", "batch", str(logs), "--out", str(out), "--address", cluster.address, "--json"]
    return argv, {**os.environ, "PYTHONPATH": str(REPO), "XDG_STATE_HOME": str(out.parent / "state")}


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def wait_for_rows(out: Path, run: subprocess.Popen[str], number: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not out.exists() or out.read_bytes().count(b"\n") < number:
        assert run.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_node_and_then_the_driver_die_and_every_log_has_one_row(cluster: Cluster, logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    argv, environment = command(cluster, logs, out)
    victim = cluster.add_node(num_cpus=1)
    first = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_rows(out, first, 1)
    cluster.remove_node(victim, allow_graceful=False)
    wait_for_rows(out, first, LOGS // 3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finished = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    again = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert again.returncode == 3, again.stderr  # The empty log is a fault.
    said = json.loads(again.stdout.splitlines()[-1])
    assert (said["logs"], said["kept"]) == (LOGS + 2, len(finished))
    assert out.read_bytes().splitlines(keepends=True)[: len(finished)] == finished
    assert Counter(row["log_path"] for row in rows(out)) == {str(path): 1 for path in logs.iterdir()}
    assert {row["error_code"] for row in rows(out)} == {None, "empty_file"}
    known = sum(row["reused"] for row in rows(out))
    print(f"\n{len(finished)} rows before the kill, {known} taken from the ledger afterwards, {LOGS + 2 - len(finished) - known} analysed")


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
