"""The Serve configs on a Ray cluster of three nodes, deployed as an operator does; and the loss of the ledger's node."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.elasticsearch_twin import ElasticsearchTwin
from tests.ray_nodes import RayNodes, free_port

RAYLET_KILLS = int(os.environ.get("ATTR_ACTORS_RAYLET_KILLS", "2"))
REPO = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CONFIGS = {
    "local": REPO / "cluster_configs/serve_local.yaml",
    "single node": REPO / "cluster_configs/serve_single_node.yaml",
    "cluster": REPO / "cluster_configs/serve_cluster.yaml",
    "RayService": REPO / "deploy/kuberay/base/rayservice.yaml",
}


def load(name: str, place: Path, port: int) -> dict[str, Any]:
    """Return a config as it is committed, but for what this machine lacks: paths, port, and a host per node."""
    config: dict[str, Any] = yaml.safe_load(CONFIGS[name].read_text())
    if config.get("kind") == "RayService":
        config = yaml.safe_load(config["spec"]["serveConfigV2"])
    config["proxy_location"] = "HeadOnly"  # The nodes share one host, so one proxy has the port.
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    arguments = config["applications"][0]["args"]
    arguments |= {"allowed_root": str(place / "logs"), "cache_file": str(place / "ledger.db")}
    arguments |= {"analyzers": 2, "replicas_min": min(2, arguments["replicas_min"]), "replicas_max": 2}
    for absent in ("host", "api_keys_file"):
        arguments.pop(absent, None)
    return config


def until(accept: Any, what: str, limit_s: float) -> float:
    started = time.monotonic()
    while not accept():
        assert time.monotonic() - started < limit_s, f"waited {limit_s:g} s for {what}"
        time.sleep(0.2)
    return time.monotonic() - started


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz", params={"ready": "true"}).status_code == 200
    except httpx.HTTPError:
        return False


def write(place: Path, number: int) -> str:
    log = place / "logs" / f"slurm-{100000 + number}.out"
    log.write_text(
        f"step {number}\nTraceback (most recent call last):\n  File \"t.py\", line {number}, in <module>\nKeyError: 'k{number}'\n"
    )
    return str(log)


def result_id(client: httpx.Client, log: str, **params: str) -> str | None:
    try:
        reply = client.get("/logs", params={"log_path": log, **params})
    except httpx.HTTPError:
        return None
    body = reply.json() if reply.status_code == 200 else {}
    return str(body["result"]["result_id"]) if body.get("status") == "completed" else None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


@pytest.fixture
def nodes(place: Path) -> Iterator[RayNodes]:
    made = RayNodes(place)
    yield made
    made.stop()


def test_every_committed_serve_config_deploys_and_answers(nodes: RayNodes, place: Path) -> None:
    nodes.start_head("--num-cpus=4", '--resources={"ledger": 1}')
    log = write(place, 1)
    first = None
    for name in CONFIGS:
        port = free_port() if first is None else port  # noqa: F821 - set in the first round
        config = load(name, place, port)
        nodes.deploy(config)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda c=client: ready(c), f"the config '{name}'", 90)
            until(lambda c=client: result_id(c, log), f"an answer of the config '{name}'", 60)
            found = result_id(client, log)
            first = first or found
            assert found == first, f"'{name}' does not see the ledger of the configs before it"


Spread = tuple[RayNodes, httpx.Client, dict[str, str | None]]


@contextlib.contextmanager
def spread_service(nodes: RayNodes, place: Path, **arguments: object) -> Iterator[Spread]:
    """Run the service on three nodes, `a` with the ledger and `c` as its other place; gives what it has acknowledged, too."""
    if any(name != "lo" for _, name in socket.if_nameindex()):
        # Replicas listen on loopback here, while the ingress asks for them at the address of their node.
        pytest.skip("needs a network of its own: unshare --net --fork bash -c 'ip link set lo up; exec pytest ...'")
    port = free_port()
    config = load("cluster", place, port)
    config["applications"][0]["args"] |= arguments
    nodes.start_head("--num-cpus=0")
    nodes.start_node("a", "--num-cpus=2", '--resources={"ledger": 1}')
    nodes.start_node("b", "--num-cpus=3")
    nodes.deploy(config)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        try:
            until(lambda: ready(client), "the service", 200)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{nodes.serve_status()}") from None
        logs = [write(place, i) for i in range(20)]
        for log in logs:
            until(lambda log=log: result_id(client, log), "an answer", 60)
        nodes.start_node("c", "--num-cpus=2", '--resources={"ledger": 1}')
        yield nodes, client, {log: result_id(client, log) for log in logs}


@pytest.fixture
def spread(nodes: RayNodes, place: Path) -> Iterator[Spread]:
    with spread_service(nodes, place) as service:
        yield service


def ledgers(nodes: RayNodes, name: str) -> list[int]:
    return [pid for pid in nodes.descendants(name) if b"ray::Ledger" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def check_kept(client: httpx.Client, answers: dict[str, str | None]) -> None:
    assert all(answers.values())
    for log in answers:
        until(lambda log=log: result_id(client, log), "a kept answer", 60)
    assert {log: result_id(client, log) for log in answers} == answers


def test_the_loss_of_the_ledgers_node_costs_under_a_minute_and_no_answer(spread: Spread, place: Path) -> None:
    nodes, client, answers = spread
    assert len(ledgers(nodes, "a")) == 1, "the ledger does not run where its resource is"
    new = write(place, 99)
    nodes.kill_node("a")
    took_s = until(lambda: result_id(client, new), "a new answer after the loss", 60)
    print(f"back {took_s:.1f} s after the ledger's node was killed", file=sys.stderr)
    check_kept(client, answers)


def test_killed_raylets_of_a_worker_node_lose_no_answer_and_double_no_document(nodes: RayNodes, place: Path) -> None:
    elastic, told = ElasticsearchTwin(), dict[str, str]()
    sinks = {"dataflow_index": "attribution", "outbox_lease_s": 8, "outbox_poll_interval_s": 0.2, "rate_limit_analyze": "1000000/minute"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(elastic.serving())
        _, client, answers = stack.enter_context(spread_service(nodes, place, elasticsearch_url=elastic.url, **sinks))
        number = 1000

        def is_up() -> bool:
            if nodes.nodes["b"].poll() is not None:  # As a supervisor does with a `ray start` that failed.
                nodes.start_node("b", "--num-cpus=3")
            return bool(nodes.raylets("b"))

        for _ in range(RAYLET_KILLS):
            until(is_up, "the raylet", 60)
            os.kill(nodes.raylets("b")[0], signal.SIGKILL)
            nodes.nodes.pop("b").wait(30)
            until_back = time.monotonic() + 20
            nodes.start_node("b", "--num-cpus=3")
            while time.monotonic() < until_back:
                log = write(place, number)
                number += 1
                if found := result_id(client, log):
                    told[log] = found
        check_kept(client, {**answers, **told})
        until(lambda: len(elastic.documents) >= len(answers) + len(told), "the documents", 120)
        paths = [document["s_log_path"] for document in elastic.documents.values()]
        assert len(paths) == len(set(paths)), "one document per log"
        assert {*answers, *told} <= set(paths)
    print(f"{RAYLET_KILLS} raylets killed, {len(told)} answers acknowledged meanwhile, 0 lost, {len(paths)} documents", file=sys.stderr)


def test_a_frozen_ledger_node_that_wakes_is_never_a_second_writer(spread: Spread, place: Path) -> None:
    nodes, client, answers = spread
    frozen = nodes.descendants("a")
    [old_writer] = ledgers(nodes, "a")
    new = write(place, 99)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    # Ray gives the node up after about half a minute and starts a ledger on the other one, which must not get the lock.
    until(lambda: ledgers(nodes, "c"), "a second ledger", 90)
    assert result_id(client, new, timeout_s="3") is None, "a second writer wrote beside the first"
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    took_s = until(lambda: result_id(client, new), "a new answer after the old writer woke", 90)
    print(f"back {took_s:.1f} s after the frozen node woke", file=sys.stderr)
    until(lambda: not Path(f"/proc/{old_writer}").exists(), "the old writer to end", 30)
    check_kept(client, answers)
