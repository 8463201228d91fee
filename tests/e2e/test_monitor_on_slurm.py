"""The monitor on a real one-node Slurm with accounting, with the real service and with a server that answers like it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attribution_twin import AttributionTwin
from tests.e2e.conftest import Service
from tests.slurm_cluster import submit, wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


@pytest.fixture
def twin() -> Iterator[AttributionTwin]:
    server = AttributionTwin()
    yield server
    server.close()


def look(environment: dict[str, str], url: str, state: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "attr_actors.cli", "monitor", "--once", "--state-file", str(state), "--attrsvc-url", url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def ended(states: list[str]) -> bool:
    return bool(states) and not {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"} & set(states)


def test_all_twenty_array_tasks_are_answered_though_two_end_between_two_looks(
    slurm: dict[str, str], service: Service, tmp_path: Path
) -> None:
    state, logs = tmp_path / "monitor.json", service.root / "array"
    logs.mkdir()
    assert look(slurm, service.url, state)[0] == 0
    fails = '--wrap=python3 -c "import nothing_$SLURM_ARRAY_TASK_ID"'
    array = submit(slurm, logs, "--array=0-17", "--output=%x_%A-%a.out", "--job-name=sweep", fails)
    wait_until(slurm, array, lambda states: len(states) == 18 and ended(states), "ended")
    code, first = look(slurm, service.url, state)
    assert code == 0, first
    pair = submit(slurm, logs, "--array=18-19", "--output=%x_%A-%a.out", "--job-name=late", fails)
    wait_until(slurm, pair, lambda states: len(states) == 2 and ended(states), "ended")
    code, second = look(slurm, service.url, state)
    assert code == 0, second
    assert (first.count("FAILED exit 1:0  ->  STOP"), second.count("FAILED exit 1:0  ->  STOP")) == (18, 2)
    for task in range(20):
        assert f"nothing_{task}'" in first + second
    assert look(slurm, service.url, state)[1].count("->") == 0


def test_a_running_job_is_announced_and_its_end_by_cancellation_answered(
    slurm: dict[str, str], twin: AttributionTwin, tmp_path: Path
) -> None:
    state = tmp_path / "monitor.json"
    job = submit(slurm, tmp_path, "--job-name=two\nlines\n   StdOut=/forged", "--output=with blank %j.out", "--wrap=exec sleep 100")
    wait_until(slurm, job, lambda states: states == ["RUNNING"], "running")
    look(slurm, twin.url, state)
    log = f"{tmp_path}/with blank {job}.out"
    assert {"log_path": log, "user": "root", "job_id": job, "analysis_intent": "track_only"} in twin.posts
    subprocess.run(["scancel", job], env=slurm, check=True, timeout=30)
    wait_until(slurm, job, ended, "ended")
    code, output = look(slurm, twin.url, state)
    assert code == 0, output
    assert job in twin.terminal()
    assert f"{job} two?lines?   StdOut=/forged (root)  CANCELLED" in output


def test_a_job_that_only_accounting_remembers_is_found_by_its_submit_line_or_script(
    slurm: dict[str, str], twin: AttributionTwin, tmp_path: Path
) -> None:
    # A job that ends before slurmdbd has noted its start is kept there without name, submit line and script.
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH --output=from-script-%j.log\nsleep 5\nexit 1\n")
    by_line = submit(slurm, tmp_path, "--output=from-line-%j.log", "job.sh")
    by_script = submit(slurm, tmp_path, "job.sh")
    for job in (by_line, by_script):
        wait_until(slurm, job, ended, "ended")
    # A controller that has forgotten the jobs: its commands are there and say that it knows none.
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name, body in (("squeue", "exit 0"), ("scontrol", "echo 'Invalid job id specified' >&2; exit 1")):
        (bin_dir / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_dir / name).chmod(0o755)
    output = ""
    forgetful = slurm | {"PATH": f"{bin_dir}:{os.environ['PATH']}"}
    wanted = {f"{tmp_path}/from-line-{by_line}.log", f"{tmp_path}/from-script-{by_script}.log"}
    deadline = time.monotonic() + 60
    while not wanted <= set(twin.gets):  # slurmdbd stores a job's script some time after its end.
        assert time.monotonic() < deadline, (output, twin.gets)
        _, output = look(forgetful, twin.url, tmp_path / "monitor.json")
    code, output = look(forgetful, twin.url, tmp_path / "monitor.json")
    assert code == 0, output
