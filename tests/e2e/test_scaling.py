"""Replicas come, go, are replaced and die under load: no request fails but as documented."""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import OOM_LOG
from tests.e2e.conftest import processes_below, start_service
from tests.e2e.steady_load import DOCUMENTED, Load
from tests.e2e.test_serve_configs import load, ready, result_id, until
from tests.ray_nodes import RayNodes, free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

LOADS = 3
KILLS = int(os.environ.get("ATTR_ACTORS_REPLICA_KILLS", "3"))
DRAIN_S = 40
"""The replicas' grace, 20 s, and what stopping Ray takes."""


def of_replicas(config: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the config for so many replicas; an override, so that the replicas that stay are not replaced."""
    changed = copy.deepcopy(config)
    scaling = {"min_replicas": number, "max_replicas": number, "downscale_delay_s": 0, "upscale_delay_s": 0}
    changed["applications"][0]["deployments"] = [{"name": "ingress", "autoscaling_config": scaling}]
    return changed


def replicas(nodes: RayNodes) -> list[int]:
    """Return the processes of the replicas."""
    return processes_below(nodes.nodes["head"].pid, b"ray::ServeReplica")


def test_redeploy_downscale_and_kills_under_load_fail_no_request(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    nodes = RayNodes(tmp_path)
    try:
        nodes.start_head("--num-cpus=4")
        config = load("single node", tmp_path, port)
        config["applications"][0]["args"] |= {"rate_limit_analyze": "100000/minute", "rate_limit_submit": "100000/minute"}
        with httpx.Client(base_url=url, timeout=30) as client:
            nodes.deploy(of_replicas(config, 3))
            until(lambda: ready(client) and len(replicas(nodes)) == 3, "three replicas", 120)
            loads = [Load(url, tmp_path, 1000 * (n + 1)) for n in range(LOADS)]
            for one in loads:
                one.start()

            def step(what: str, done: Any, limit_s: float = 120) -> None:
                before = sum((one.outcomes for one in loads), Counter())
                took_s = until(done, what, limit_s)
                seen = [len(one.acknowledged) for one in loads]
                until(lambda: all(len(one.acknowledged) >= n + 20 for one, n in zip(loads, seen, strict=True)), f"load after {what}", 60)
                outcomes = sum((one.outcomes for one in loads), Counter()) - before
                print(f"{what}: {took_s:.1f} s, {dict(outcomes)}", file=sys.stderr)

            step("three replicas", lambda: True)
            nodes.deploy(of_replicas(config, 1))
            step("from 3 replicas to 1", lambda: len(replicas(nodes)) == 1)
            nodes.deploy(of_replicas(config, 2))
            step("from 1 replica to 2", lambda: len(replicas(nodes)) == 2)
            for _ in range(KILLS):
                victim = replicas(nodes)[0]
                os.kill(victim, signal.SIGKILL)
                step("one of 2 replicas killed", lambda v=victim: len(replicas(nodes)) == 2 and v not in replicas(nodes))
            old = set(replicas(nodes))
            config["applications"][0]["args"] |= {"compute_timeout": 77}
            nodes.deploy(of_replicas(config, 2))
            step("a redeploy with other settings", lambda: len(replicas(nodes)) == 2 and not old & set(replicas(nodes)))
            for one in loads:
                one.end()
            outcomes = sum((one.outcomes for one in loads), Counter())
            print(f"{dict(outcomes)}, slowest {max(one.slowest_s for one in loads):.1f} s", file=sys.stderr)
            assert set(outcomes) <= DOCUMENTED, outcomes
            acknowledged = {log: found for one in loads for log, found in one.acknowledged.items()}
            assert [log for log, found in acknowledged.items() if result_id(client, log) != found] == []
    finally:
        nodes.stop()


def test_a_term_signal_lets_the_requests_under_way_end(tmp_path: Path) -> None:
    service = start_service(tmp_path, NVRX_ATTRSVC_ANALYZERS="1", NVRX_ATTRSVC_RATE_LIMIT_ANALYZE="100000/minute")
    steady = "".join(f"step {n} of 120000 loss 2.1 lr 1e-4 elapsed 0.51 s\n" for n in range(4_000_000))  # Some 200 MB.
    logs = [service.write(f"slurm-{n}.out", f"{n}\n{steady}{OOM_LOG}") for n in range(6)]
    outcomes: Counter[str] = Counter()

    def ask(log: str) -> None:
        try:
            reply = httpx.get(f"{service.url}/logs", params={"log_path": log}, timeout=60)
            outcomes[f"{reply.status_code} {reply.json().get('status')}"] += 1
        except httpx.HTTPError as exc:
            outcomes[type(exc).__name__] += 1

    askers = [threading.Thread(target=ask, args=(log,)) for log in logs]
    for asker in askers:
        asker.start()
    until(lambda: outcomes.total() + service.client.get("/inflight").json()["count"] == len(logs), "all flights", 30)
    assert outcomes.total() < len(logs)
    started = time.monotonic()
    service.client.close()
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(DRAIN_S) == 0
    for asker in askers:
        asker.join(5)
    print(f"\nstopped after {time.monotonic() - started:.1f} s; the requests under way: {dict(outcomes)}")
    assert outcomes == {"200 completed": len(logs)}
