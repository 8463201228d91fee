"""Very long logs hold up nobody: neither their own POST nor that of others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from attr_actors.core import markers
from tests.api.conftest import Api
from tests.api.test_splitlog import poll


def sparse(api: Api, name: str, size: int) -> str:
    path = api.write(name, f"<< START PATHS >>\nLOGS_DIR={api.root}/logs\n<< END PATHS >>\n")
    os.truncate(path, size)
    return path


def mode_after_post(api: Api, path: str, job_id: str) -> str:
    began = time.monotonic()
    reply = api.client.post("/logs", json={"log_path": path, "job_id": job_id})
    assert reply.status_code == 200, reply.text
    assert time.monotonic() - began < 3
    return str(reply.json()["mode"])


@pytest.mark.parametrize("holes_are_told", [True, False])
def test_sparse_logs_of_terabytes_hold_up_nobody(
    open_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, holes_are_told: bool
) -> None:
    if not holes_are_told:
        monkeypatch.setattr(markers, "_past_hole", lambda fd, state: state)
    api = open_api(file_timeout_s=5)
    for n in range(12):
        mode_after_post(api, sparse(api, f"slurm-{n}.out", 12 << 40), str(n))
        assert mode_after_post(api, api.write(f"other-{n}.out", "x" * 5000), f"9{n}") == "single"
    assert api.client.get("/healthz").json()["status"] == "ok"


def test_a_long_log_is_pending_and_gets_its_mode_once_it_was_read_through(api: Api) -> None:
    api.write("new/model_7_cycle0.log", "x\n")
    first, last = (f"<< START PATHS >>\nLOGS_DIR={api.root}/{name}\n<< END PATHS >>\n" for name in ("old", "new"))
    log = api.write("slurm-7.out", first + "a line of the launcher that says nothing of interest....\n" * (3 << 20) + last)
    assert mode_after_post(api, log, "7") == "pending"

    def job() -> dict[str, Any]:
        return next(j for j in api.client.get("/jobs").json()["jobs"] if j["log_path"] == log)

    assert poll(lambda: job()["mode"] == "splitlog", 20)
    assert (job()["logs_dir"], job()["sched_restarts"]) == (f"{api.root}/new", 2)
