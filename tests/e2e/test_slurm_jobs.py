"""Jobs of a real Slurm, followed by a monitor as sites run one: POST when a job starts, GET when it has left the queue."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Service, free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

FAILURES = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB.",
    "module": "ModuleNotFoundError: No module named 'apex'",
    "disk": "OSError: [Errno 28] No space left on device",
    "nan": "ValueError: num_samples should be a positive integer value, but got num_samples=0",
}
PRELUDE = r"""#!/bin/bash
fail() { printf 'Traceback (most recent call last):\n  File "/app/train.py", line 88, in <module>\n    main()\n%s\n' "$1"; }
train() { for i in 1 2 3; do echo " iteration $i/ 100 | elapsed time per iteration (ms): 510.1 | lm loss: 4.2$i |"; done; }
"""


class Slurm:
    """The commands of one Slurm."""

    def __init__(self, conf: str, place: Path) -> None:
        self._env = os.environ | {"SLURM_CONF": conf}
        self.place = place

    def run(self, *command: str) -> str:
        return subprocess.run(command, env=self._env, cwd=self.place, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        path = self.place / f"job-{len(list(self.place.glob('job-*')))}.sh"
        path.write_text(PRELUDE + script)
        return self.run("sbatch", "--parsable", *options, str(path))

    def show(self) -> dict[str, dict[str, str]]:
        """Return the fields of every job and array task that the controller remembers."""
        jobs = {}
        for line in self.run("scontrol", "show", "job", "--oneliner").splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            if "StdOut" in fields:
                task = fields.get("ArrayTaskId")
                jobs[f"{fields['ArrayJobId']}_{task}" if task else fields["JobId"]] = fields
        return jobs


@pytest.fixture(scope="module")
def slurm(shared_dir: Path, service: Service) -> Iterator[Slurm]:
    missing = [
        name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not (shutil.which(name) or shutil.which(f"/usr/sbin/{name}"))
    ]
    if missing:
        pytest.skip(f"needs a Slurm, and there is no {', '.join(missing)} (Debian: slurm-wlm slurmdbd munge mariadb-server)")
    place = tempfile.mkdtemp(prefix="slurm-")  # Short: sockets have short paths.
    ports = {name: str(free_port()) for name in ("P_CTLD", "P_D", "P_DBD", "P_SQL")}
    env = os.environ | ports | {"SLURM_DIR": place}
    script = ["bash", str(shared_dir / "tools" / "slurm_up.sh")]
    try:
        up = subprocess.run(script, env=env, capture_output=True, text=True, timeout=120)
        if up.returncode:
            pytest.skip(f"the Slurm did not start: {up.stderr[-300:]}")
        jobs = service.root / "slurm"
        jobs.mkdir()
        yield Slurm(f"{place}/etc/slurm.conf", jobs)
    finally:
        subprocess.run([*script, "down"], env=env, capture_output=True, timeout=60)
        shutil.rmtree(place, ignore_errors=True)


class Monitor:
    """POSTs each job once while it runs and GETs it once when it has ended."""

    def __init__(self, slurm: Slurm, service: Service) -> None:
        self.slurm, self.service = slurm, service
        self.posts: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, dict[str, Any]] = {}

    def watch(self, job_ids: set[str], enough: Callable[[], bool], timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not enough():
            assert time.monotonic() < deadline, f"no answers for {job_ids - self.answers.keys()}: {self.slurm.run('squeue')}"
            for job_id, fields in self.slurm.show().items():
                if job_id in job_ids:
                    self.see(job_id, fields["JobState"], fields["StdOut"])
            time.sleep(0.2)

    def see(self, job_id: str, state: str, log: str) -> None:
        running = state in ("RUNNING", "COMPLETING", "PENDING") or state.startswith("REQUEUE")
        if job_id not in self.posts and state != "PENDING":
            reply = self.service.post(log, user="root", job_id=job_id)
            assert reply.status_code == 200, reply.text
            self.posts[job_id] = reply.json()
        if not running and job_id not in self.answers:
            reply = self.service.get(log)
            assert reply.status_code == 200, reply.text
            self.answers[job_id] = reply.json()


def until(condition: Any, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_each_job_of_a_real_slurm_gets_the_answer_of_its_own_file_and_last_attempt(slurm: Slurm, service: Service) -> None:
    monitor = Monitor(slurm, service)
    single = slurm.submit(f'train; sleep 1; fail "{FAILURES["oom"]}"; exit 1')
    array = slurm.submit(
        f'train; if [ $SLURM_ARRAY_TASK_ID = 0 ]; then fail "{FAILURES["module"]}"; else fail "{FAILURES["disk"]}"; fi; exit 1',
        "--array=0-1",
    )
    requeued = slurm.submit(
        f'train; if [ -z $SLURM_RESTART_COUNT ]; then fail "{FAILURES["disk"]}"; scontrol requeue $SLURM_JOB_ID; sleep 60; fi\n'
        f'fail "{FAILURES["module"]}"; exit 1',
        "--requeue",
        "--open-mode=append",
    )
    split = slurm.submit(
        "logs=$PWD/logs-$SLURM_JOB_ID; mkdir -p $logs; echo '<< START PATHS >>'; echo LOGS_DIR=$logs; echo '<< END PATHS >>'\n"
        "head -c 5000 /dev/zero | tr '\\0' 'x'; echo\n"
        f"out() {{ echo $logs/model_${{SLURM_JOB_ID}}_cycle$1.log; }}\n"
        f'(train; fail "{FAILURES["disk"]}") > $(out 0); sleep 0.3; (train; fail "{FAILURES["module"]}") > $(out 1); sleep 0.3\n'
        f'(train; fail "{FAILURES["oom"]}") > $(out 2); exit 1'
    )
    cancelled = slurm.submit("train; sleep 100")
    output = slurm.place / f"slurm-{cancelled}.out"
    until(lambda: output.exists() and "iteration 3" in output.read_text())
    until(lambda: slurm.show()[requeued].get("Restarts") == "1", 60)
    slurm.run("scontrol", "update", f"jobid={requeued}", "StartTime=now")  # Slurm would wait two minutes.
    jobs = {single, f"{array}_0", f"{array}_1", requeued, split, cancelled}
    monitor.watch(jobs, lambda: cancelled in monitor.posts)
    slurm.run("scancel", cancelled)
    monitor.watch(jobs, lambda: monitor.answers.keys() == jobs)

    def cause(job_id: str) -> tuple[str, str]:
        answer = monitor.answers[job_id]
        return answer["attribution"]["category"], answer["recommendation"]["action"]

    assert cause(single) == ("cuda_oom", "STOP")
    assert cause(f"{array}_0") == ("dependency_env", "STOP")
    assert cause(f"{array}_1") == ("storage", "STOP")
    assert cause(requeued) == ("dependency_env", "STOP")
    assert cause(cancelled) == ("scheduler", "STOP")
    answer = monitor.answers[split]
    assert (answer["mode"], answer["sched_restarts"], cause(split)) == ("splitlog", 1, ("cuda_oom", "STOP"))
    assert Path(answer["log_file"]).name == f"model_{split}_cycle2.log"
    log = monitor.posts[split]["normalized_path"]
    categories = [f["attribution"]["category"] for f in service.get(log, all_files="true").json()["files"]]
    assert categories == ["storage", "dependency_env", "cuda_oom"]
    tracked = {j["job_id"]: j for j in service.client.get("/jobs?limit=1000").json()["jobs"]}
    assert jobs <= tracked.keys()
    assert all(tracked[j]["terminated"] for j in jobs)
