"""The README's commands run and print what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import REPO, Service

README = (REPO / "README.md").read_text()
COMMANDS = [line[2:].split("   #")[0].strip() for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines()]


def run(command: str, tmp_path: Path) -> str:
    """Run a command of the README with this environment's programs."""
    words = shlex.split(command.replace(".venv/bin/nvrx-attrsvc", f"{sys.executable} -m attr_actors.cli"))
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(REPO), "COLUMNS": "100"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=REPO, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_come_first() -> None:
    assert COMMANDS[:2] == ["make run", "make test"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "nvrx-attrsvc analyze" in c])
def test_the_analyze_commands_run(command: str, tmp_path: Path) -> None:
    proof = "gpu-node-17" if "xid_79" in command else "No space left on device"
    assert proof in run(command, tmp_path)


def test_the_shown_answers_are_what_the_samples_get(tmp_path: Path) -> None:
    shown = re.search(r"```text\n(xid_79.*?)```", README, re.S)
    assert shown
    printed = run(
        ".venv/bin/nvrx-attrsvc analyze " + " ".join(str(p) for p in sorted((REPO / "attr_actors/samples").glob("*.log"))), tmp_path
    )
    for line in shown.group(1).splitlines():
        assert line.rstrip("…") in printed.replace(f"{REPO}/attr_actors/samples/", ""), line


def test_the_curl_commands_of_the_readme_work(service: Service) -> None:
    path = service.write("slurm-1234.out", (REPO / "attr_actors/samples/xid_79.log").read_text())
    for command in (c for c in COMMANDS if c.startswith("curl")):
        words = shlex.split(command.replace("/logs/slurm-1234.out", path).replace("http://127.0.0.1:8000", service.url))
        url = next(w for w in words if w.startswith("http"))
        if "-d" in words:
            reply = httpx.post(url, content=words[words.index("-d") + 1], headers={"Content-Type": "application/json"}, timeout=60)
        else:
            reply = httpx.get(url, timeout=60)
        assert reply.status_code == 200


def test_every_variable_named_is_a_setting() -> None:
    from attr_actors.settings import Settings, env_name

    known = {env_name(field) for field in Settings.model_fields}
    named = set(re.findall(r"`((?:NVRX_ATTRSVC|SLACK|NVIDIA)_[A-Z_]+)`", README))
    assert named <= known
