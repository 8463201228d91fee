"""What tests ask of a real Slurm; the fixture ``slurm`` starts one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def submit(environment: dict[str, str], place: Path, *arguments: str) -> str:
    command = ["sbatch", "--parsable", "--mem=10", f"--chdir={place}", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def wait_until(environment: dict[str, str], job: str, accept: Callable[[list[str]], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        command = ["sacct", "-X", "-n", "-P", "-j", job, "-o", "State"]
        states = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout.split()
        if accept(states):
            return
        time.sleep(0.2)
    raise AssertionError(f"job {job} never was {what}: {states}")
