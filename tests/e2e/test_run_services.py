"""How deploy/run_services.sh starts, stops and requeues, on a real Slurm with a program in the service's place."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm_cluster import submit, wait_until

REPO = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

STAND_IN = """#!/bin/bash
trap 'echo "drained $$"; exit 0' TERM
echo "serving with $NVRX_ATTRSVC_CACHE_FILE"
[ -n "$CRASH" ] && exit 7
while :; do sleep 0.1; done
"""


@pytest.fixture
def site(slurm: dict[str, str], tmp_path: Path) -> dict[str, str]:
    command = tmp_path / "bin/nvrx-attrsvc"
    command.parent.mkdir()
    command.write_text(STAND_IN)
    command.chmod(0o755)
    return slurm | {
        "ATTR_ACTORS_BIN": str(command.parent),
        "ATTR_ACTORS_DEPLOY": str(REPO / "deploy"),
        "ATTR_ACTORS_STATE": str(tmp_path / "state"),
        "NVRX_ATTRSVC_ALLOWED_ROOT": str(tmp_path),
        "CRASH": "",
    }


def start(site: dict[str, str], place: Path, *options: str) -> tuple[str, Path]:
    output = place / "out.log"
    size = ["--cpus-per-task=1", f"--output={output}", *options]
    script = str(REPO / "deploy/slurm.sbatch")
    command = ["sbatch", "--parsable", "--mem=10", f"--chdir={place}", *size, script]
    done = subprocess.run(command, env=site, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip(), output


def until(accept: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not accept():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}"
        time.sleep(0.1)


def says(output: Path, text: str) -> Callable[[], bool]:
    return lambda: output.exists() and text in output.read_text()


def signal(site: dict[str, str], job: str, name: str) -> None:
    subprocess.run(["scancel", f"--signal={name}", "--batch", job], env=site, check=True, timeout=30)


def test_a_term_signal_stops_the_service_cleanly(site: dict[str, str], tmp_path: Path) -> None:
    job, output = start(site, tmp_path)
    until(says(output, f"serving with {tmp_path}/state/ledger.db"), "the service")
    assert (tmp_path / "state/address").read_text() == "http://127.0.0.1:8000\n"
    signal(site, job, "TERM")
    wait_until(site, job, lambda states: states[-1:] == ["COMPLETED"], "completed")
    assert "drained" in output.read_text()
    assert not (tmp_path / "state/address").exists()


def test_the_signal_before_the_time_limit_stops_requeues_and_starts_again(site: dict[str, str], tmp_path: Path) -> None:
    # The limit is one minute, and Slurm is told to signal 50 s before it: some seconds after the start.
    job, output = start(site, tmp_path, "--time=1", "--signal=B:USR1@50")
    until(says(output, "time limit is near"), "Slurm's signal", 90)
    until(says(output, f"requeueing job {job}"), "the requeueing")
    assert output.read_text().index("drained") < output.read_text().index("requeueing")
    wait_until(site, job, lambda states: states[-1:] == ["PENDING"], "queued again")
    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now", "TimeLimit=10"], env=site, check=True, timeout=30)
    until(lambda: output.read_text().count("serving with") == 2, "the second start", 90)
    signal(site, job, "TERM")
    wait_until(site, job, lambda states: states[-1:] == ["COMPLETED"], "completed")


def test_a_cancelled_job_stops_cleanly_too(site: dict[str, str], tmp_path: Path) -> None:
    job, output = start(site, tmp_path)
    until(says(output, "serving"), "the service")
    subprocess.run(["scancel", "--full", "--signal=TERM", job], env=site, check=True, timeout=30)
    until(says(output, "drained"), "the service to drain")


def test_a_service_that_ends_by_itself_fails_the_job_with_its_exit_code(site: dict[str, str], tmp_path: Path) -> None:
    job, output = start(site | {"CRASH": "1"}, tmp_path)
    wait_until(site, job, lambda states: states[-1:] == ["FAILED"], "failed")
    assert "ended by itself with exit code 7" in output.read_text()
    code = subprocess.run(["sacct", "-X", "-n", "-P", "-j", job, "-o", "ExitCode"], env=site, capture_output=True, text=True, timeout=30)
    assert code.stdout.strip() == "7:0"


def test_a_missing_root_is_named_at_once(site: dict[str, str], tmp_path: Path) -> None:
    environment = {k: v for k, v in site.items() if k != "NVRX_ATTRSVC_ALLOWED_ROOT"}
    job = submit(environment, tmp_path, "--cpus-per-task=1", f"--output={tmp_path}/out.log", str(REPO / "deploy/slurm.sbatch"))
    wait_until(site, job, lambda states: states[-1:] == ["FAILED"], "failed")
    assert "NVRX_ATTRSVC_ALLOWED_ROOT: is required" in (tmp_path / "out.log").read_text()
