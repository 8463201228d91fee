"""The service and the monitor as jobs of a real one-node Slurm, started by the scripts under deploy/."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.slurm_cluster import submit, wait_until

REPO = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

FAILING_JOB = r"""
echo "[rank0]: Traceback (most recent call last):"
echo '[rank0]:   File "/workspace/train.py", line 41, in main'
echo "[rank0]:     model = build(cfg['model'])"
echo "[rank0]: KeyError: 'model'"
exit 1
"""


def poll(accept: Callable[[], Any], what: str, limit_s: float = 150) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := accept():
            return found
        time.sleep(0.3)
    raise AssertionError(f"waited {limit_s:g} s for {what}")


def ready_or_dead(url: str, output: Path) -> Any:
    assert "stopped" not in (output.read_text() if output.exists() else ""), output.read_text()
    return get(url, "/healthz?ready=true")


def get(url: str, path: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(url + path, timeout=30) as reply:
            body: dict[str, Any] = json.load(reply)
            return body
    except urllib.error.HTTPError as exc:
        exc.close()
        return None
    except OSError:
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def site(slurm: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of an operator: a log directory, a state directory, the commands on the path."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, line in (
        ("nvrx-attrsvc", f'exec {sys.executable} -m attr_actors.cli "$@"'),
        ("python3", f'exec {sys.executable} "$@"'),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    logs = tmp_path / "logs"
    logs.mkdir()
    return slurm | {
        "ATTR_ACTORS_BIN": str(commands),
        "ATTR_ACTORS_DEPLOY": str(REPO / "deploy"),
        "ATTR_ACTORS_STATE": str(tmp_path / "state"),
        "NVRX_ATTRSVC_ALLOWED_ROOT": str(logs),
        "NVRX_ATTRSVC_PORT": str(free_port()),
        "NVRX_SMONSVC_INTERVAL": "1",
        "NVRX_SMONSVC_PARTITIONS": "debug",
        "NVRX_SMONSVC_JOB_PATTERN": "train",
    }


def scontrol(site: dict[str, str], *arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], env=site, check=True, capture_output=True, timeout=30)


def signal(site: dict[str, str], job: str, name: str) -> None:
    subprocess.run(["scancel", f"--signal={name}", "--batch", job], env=site, check=True, timeout=30)


def test_service_and_monitor_in_one_allocation_attribute_stop_requeue_and_lose_nothing(site: dict[str, str], tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{site['NVRX_ATTRSVC_PORT']}"
    output = tmp_path / "services.log"
    size = ["--mem=3000", "--cpus-per-task=1", f"--output={output}", "--time=30"]
    services = submit(site, tmp_path, *size, str(REPO / "deploy/nvrx_services.sbatch"))
    try:
        poll(lambda: ready_or_dead(url, output), "the service")
        assert (tmp_path / "state/address").read_text() == url + "\n"

        job = submit(site, Path(site["NVRX_ATTRSVC_ALLOWED_ROOT"]), "--job-name=train", "--output=slurm-%j.out", f"--wrap={FAILING_JOB}")
        printed = poll(lambda: output.read_text() if f"\n{job} train" in output.read_text() else "", "the monitor's answer")
        assert f"{job} train" in printed
        assert "KeyError: 'model'" in printed
        log = f"{site['NVRX_ATTRSVC_ALLOWED_ROOT']}/slurm-{job}.out"
        query = "/logs?" + urllib.parse.urlencode({"log_path": log, "wait": "false"})
        before = get(url, query)
        assert before
        assert before["status"] == "completed"

        signal(site, services, "USR1")  # What Slurm sends before the time limit.
        poll(lambda: f"requeueing job {services}" in output.read_text(), "the requeueing", 90)
        wait_until(site, services, lambda states: states[-1:] == ["PENDING"], "queued again")
        scontrol(site, "update", f"jobid={services}", "StartTime=now")
        poll(lambda: get(url, "/healthz?ready=true"), "the service after the requeueing")
        after = get(url, query)
        assert after
        assert after["result"]["result_id"] == before["result"]["result_id"]
        assert output.read_text().count(f"\n{job} train") == 1, "the monitor answered the same job twice"

        signal(site, services, "TERM")
        wait_until(site, services, lambda states: states[-1:] == ["COMPLETED"], "completed")
        assert get(url, "/healthz") is None
        assert not (tmp_path / "state/address").exists()
    finally:
        subprocess.run(["scancel", services], env=site, check=False, timeout=30)
        if os.environ.get("SHOW_SERVICES_LOG"):
            print(output.read_text() if output.exists() else "no output")
