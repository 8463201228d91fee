"""From one release's code to the next on a running cluster, under load: nothing acknowledged is lost, failures are counted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import processes_below
from tests.e2e.steady_load import DOCUMENTED, Load
from tests.e2e.test_serve_configs import load, ready, result_id, until
from tests.ray_nodes import RayNodes, free_port

REPO = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def release(place: Path, version: str) -> str:
    """Pack the code as one release: a zip that Serve's `working_dir` takes."""
    tree = place / f"release-{version}"
    for package in ("attr_actors", "serve_app"):
        shutil.copytree(REPO / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    init = tree / "attr_actors/__init__.py"
    init.write_text(re.sub(r'__version__ = "[^"]+"', f'__version__ = "{version}"', init.read_text()))
    return "file://" + shutil.make_archive(str(tree), "zip", tree)


def test_a_new_release_is_rolled_out_under_load_without_losing_an_answer(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    nodes = RayNodes(tmp_path)
    nodes.environment["PYTHONPATH"] = ""  # The code comes from the releases alone.
    try:
        nodes.start_head("--num-cpus=3")
        config = load("single node", tmp_path, port)
        config["applications"][0]["args"]["rate_limit_analyze"] = config["applications"][0]["args"]["rate_limit_submit"] = "100000/minute"
        config["applications"][0]["runtime_env"] = {"working_dir": release(tmp_path, "0.0.9")}
        nodes.deploy(config)
        with httpx.Client(base_url=url, timeout=30) as client:
            until(lambda: ready(client), "the old release", 120)
            assert client.get("/openapi.json").json()["info"]["version"] == "0.0.9"
            running = Load(url, tmp_path)
            running.start()
            until(lambda: len(running.acknowledged) >= 20, "load", 60)
            config["applications"][0]["runtime_env"] = {"working_dir": release(tmp_path, "0.1.0")}
            nodes.deploy(config)

            def all_new() -> bool:
                versions = set()
                for _ in range(8):
                    with httpx.Client(base_url=url, timeout=30) as fresh:
                        versions.add(fresh.get("/openapi.json").json()["info"]["version"])
                return versions == {"0.1.0"}

            took_s = until(all_new, "the new release", 150)
            at_the_switch = len(running.acknowledged)
            until(lambda: len(running.acknowledged) >= at_the_switch + 20, "load on the new release", 60)
            running.end()
            print(f"rolled in {took_s:.1f} s; {len(running.acknowledged)} acknowledged; outcomes {dict(running.outcomes)}", file=sys.stderr)
            lost = [log for log, found in running.acknowledged.items() if result_id(client, log) != found]
            assert lost == []
            assert set(running.outcomes) <= DOCUMENTED, running.outcomes
    finally:
        nodes.stop()
        subprocess.run(["rm", "-rf", str(tmp_path / "release-0.0.9"), str(tmp_path / "release-0.1.0")], check=False)


def replace_replica(nodes: RayNodes, url: str) -> None:
    """Kill the only replica of a cluster whose ledger was taken over; another must come and answer."""

    def replicas() -> list[int]:
        return processes_below(nodes.nodes["head"].pid, b"ray::ServeReplica")

    def is_replaced() -> bool:
        return old not in replicas() and httpx.get(f"{url}/healthz", timeout=30).status_code == 200

    (old,) = replicas()
    os.kill(old, signal.SIGKILL)
    try:
        took_s = until(is_replaced, "a replica", 60)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{nodes.serve_status()}") from None
    print(f"the old cluster has a new replica after {took_s:.1f} s", file=sys.stderr)


def test_a_second_cluster_takes_the_ledger_over_under_load_without_losing_an_answer(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    clusters: list[RayNodes] = []
    loads: list[Load] = []
    urls: list[str] = []
    try:
        for name in ("old", "new"):
            (tmp_path / name).mkdir()
            clusters.append(RayNodes(tmp_path / name))
            clusters[-1].start_head("--num-cpus=2")
            port = free_port()
            config = load("single node", tmp_path, port)
            config["applications"][0]["args"] |= {"ledger_take_over": True, "analyzers": 1, "replicas_min": 1, "replicas_max": 1}
            config["applications"][0]["args"] |= {"rate_limit_analyze": "100000/minute", "rate_limit_submit": "100000/minute"}
            started = time.monotonic()
            clusters[-1].deploy(config)
            urls.append(f"http://127.0.0.1:{port}")
            with httpx.Client(base_url=urls[-1], timeout=30) as client:
                until(lambda c=client: ready(c), f"the {name} cluster", 150)
            print(f"the {name} cluster was ready {time.monotonic() - started:.1f} s after its deployment", file=sys.stderr)
            loads.append(Load(urls[-1], tmp_path, 1000 + 50_000 * len(loads)))
            loads[-1].start()
            until(lambda: len(loads[-1].acknowledged) >= 30, f"load on the {name} cluster", 60)
        for one in loads:
            one.end()
            print(f"{len(one.acknowledged)} acknowledged; outcomes {dict(one.outcomes)}, slowest {one.slowest_s:.1f} s", file=sys.stderr)
            assert set(one.outcomes) <= DOCUMENTED, one.outcomes
        replace_replica(clusters[0], urls[0])
        clusters[0].stop()
        acknowledged = loads[0].acknowledged | loads[1].acknowledged
        with httpx.Client(base_url=urls[-1], timeout=30) as client:
            assert [log for log, found in acknowledged.items() if result_id(client, log) != found] == []
    finally:
        for one in loads:
            one.end()
        for nodes in clusters:
            nodes.stop()
