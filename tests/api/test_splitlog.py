"""GET and POST of jobs with one log per restart: which file, which cycle, which cause."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import OOM_LOG, Api

MODULE_LOG = """\
Traceback (most recent call last):
  File "/app/train.py", line 3, in <module>
    import apex
ModuleNotFoundError: No module named 'apex'
"""
DISK_LOG = """\
 iteration       10/    1000 | elapsed time per iteration (ms): 510.1 | lm loss: 4.21E+00 |
Traceback (most recent call last):
  File "/app/train.py", line 90, in save
    f.write(data)
OSError: [Errno 28] No space left on device
"""


def cycle_line(n: int) -> str:
    return f"2026-05-01 10:0{n}:00,000 INFO profiling.py:214 [launcher] event=rendezvous_started Cycle: {n}\n"


THREE_CYCLES = "".join(cycle_line(n) + text for n, text in enumerate((MODULE_LOG, DISK_LOG, OOM_LOG)))
CAUSES = {MODULE_LOG: "dependency_env", DISK_LOG: "storage", OOM_LOG: "cuda_oom"}


class Split:
    """A splitlog job with three files; the middle one has three workload cycles."""

    def __init__(self, api: Api) -> None:
        self.api = api
        for name, text in (("cycle0", MODULE_LOG), ("cycle1", THREE_CYCLES), ("cycle2", DISK_LOG)):
            api.write(f"logs/model_1_{name}.log", text)
        self.log = api.write("slurm-1.out", f"<< START PATHS >>\nLOGS_DIR={api.root}/logs\n<< END PATHS >>\n" + "x" * 5000)

    def post(self, **more: Any) -> dict[str, Any]:
        reply = self.api.client.post("/logs", json={"log_path": self.log, "job_id": "1", "user": "ann", **more})
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        return body

    def get(self, **params: Any) -> dict[str, Any]:
        return self.api.get(self.log, **params)

    def error(self, **params: Any) -> tuple[int, str, str]:
        reply = self.api.client.get("/logs", params={"log_path": self.log, **params})
        body = reply.json()
        return reply.status_code, body["error_code"], body["message"]

    def job(self) -> dict[str, Any]:
        return next(j for j in self.api.client.get("/jobs").json()["jobs"] if j["log_path"] == self.log)


@pytest.fixture
def split(api: Api) -> Split:
    return Split(api)


def file_of(body: dict[str, Any]) -> str:
    return Path(body["log_file"]).name


def causes(body: dict[str, Any]) -> list[str]:
    return [info["category"] for _, info in body["result"]["result"]]


def test_post_of_a_splitlog_job(split: Split) -> None:
    assert list(split.post().items())[2:5] == [("mode", "splitlog"), ("logs_dir", f"{split.api.root}/logs"), ("sched_restarts", 1)]


@pytest.mark.parametrize(
    ("params", "file", "expected"),
    [
        ({}, "model_1_cycle2.log", ["storage"]),
        ({"file": "model_1_cycle0.log"}, "model_1_cycle0.log", ["dependency_env"]),
        ({"file": "model_1_cycle1.log"}, "model_1_cycle1.log", ["dependency_env", "storage", "cuda_oom"]),
        ({"file": "model_1_cycle1.log", "wl_restart": 2}, "model_1_cycle1.log", ["cuda_oom"]),
        ({"wl_restart": 0}, "model_1_cycle2.log", ["storage"]),
        ({"all_files": "true", "file": "model_1_cycle0.log"}, "model_1_cycle0.log", ["dependency_env"]),
    ],
)
def test_what_a_get_answers(split: Split, params: dict[str, Any], file: str, expected: list[str]) -> None:
    split.post()
    body = split.get(**params)
    assert (file_of(body), causes(body)) == (file, expected)
    assert (body["mode"], body["sched_restarts"], body["wl_restart"]) == ("splitlog", 1, params.get("wl_restart", 0))
    assert body["result"]["module"] == "log_analyzer"


def test_all_files_come_in_order_with_every_files_result(split: Split) -> None:
    split.post()
    body = split.get(all_files="true")
    assert [file_of(f) for f in body["files"]] == [f"model_1_cycle{n}.log" for n in range(3)]
    assert [causes(f) for f in body["files"]] == [["dependency_env"], ["dependency_env", "storage", "cuda_oom"], ["storage"]]
    assert file_of(body) == "model_1_cycle2.log"
    assert body["result"] == body["files"][-1]["result"]


def test_all_files_and_wl_restart_show_the_cycle_of_each_file_that_has_it(split: Split) -> None:
    split.post()
    split.api.write("logs/model_1_cycle2.log", THREE_CYCLES)
    states = [f["result"]["state"] for f in split.get(all_files="true", wl_restart=1)["files"]]
    assert states == ["error", "complete", "complete"]


@pytest.mark.parametrize("file", ["x.log", "../slurm-1.out", "..", "/etc/passwd", "model_2_cycle0.log"])
def test_a_file_that_is_not_the_jobs_is_not_found(split: Split, file: str) -> None:
    split.api.write("logs/model_2_cycle0.log", OOM_LOG)
    split.post()
    assert split.error(file=file) == (404, "not_found", f"file '{file}' not found")


def test_a_cycle_beyond_the_count_is_refused(split: Split) -> None:
    split.post()
    assert split.error(wl_restart=5) == (400, "invalid_parameter", "wl_restart=5 out of range (file has 1 workload cycle(s))")


def test_no_files_yet(split: Split) -> None:
    for file in (split.api.root / "logs").iterdir():
        file.unlink()
    split.post()
    assert split.error() == (404, "not_found", "no log files detected yet")


def test_an_empty_last_file_is_said_to_be_empty_and_does_not_hide_the_others(split: Split) -> None:
    split.api.write("logs/model_1_cycle0.log", "")  # Before the submission, which has complete files analysed in the background.
    split.post()
    assert [f["result"]["state"] for f in split.get(all_files="true")["files"]] == ["error", "complete", "complete"]
    split.api.write("logs/model_1_cycle3.log", "")
    status, code, message = split.error()
    assert (status, code) == (400, "empty_file")
    assert "empty" in message


def test_a_file_that_appeared_since_the_last_look_is_the_last_file(split: Split) -> None:
    split.post()
    split.api.write("logs/model_1_cycle3.log", OOM_LOG)
    assert file_of(split.get()) == "model_1_cycle3.log"


def test_only_a_get_for_the_whole_job_ends_it(split: Split) -> None:
    split.post()
    split.get(file="model_1_cycle0.log")
    split.get(wait="false")
    assert not split.job()["terminated"]
    assert [file_of(f) for f in split.get(all_files="true", wait="false")["files"]] == ["model_1_cycle0.log", "model_1_cycle1.log"]
    split.get()
    assert split.job()["terminated"]
    assert split.job()["files_count"] == 3


def test_files_are_recorded_for_the_jobs_user_and_their_own_cycle(split: Split) -> None:
    split.post()
    split.get(all_files="true")
    assert poll(lambda: split.job()["files_analyzed"] == 3)


def test_terminal_makes_the_answer_ready_without_waiting(split: Split) -> None:
    split.post(analysis_intent="terminal")
    started = time.monotonic()
    assert poll(lambda: split.get(wait="false")["status"] == "completed")
    assert time.monotonic() - started < 5
    assert split.get(wait="false")["recommendation"]["action"] == "STOP"


def test_of_a_progressive_job_only_the_tail_is_read_at_the_end(api: Api) -> None:
    steady = " iteration 10/ 1000 | elapsed time per iteration (ms): 510.1 | lm loss: 4.21E+00 |\n" * 20_000
    path = api.write("m_1_cycle0.log", steady)

    def stats() -> dict[str, Any]:
        found: dict[str, Any] = api.client.get("/stats").json()
        return found

    api.client.post("/logs", json={"log_path": path, "analysis_intent": "progressive"})
    assert poll(lambda: stats()["follow"]["reads"] == 1)
    assert stats()["compute"].get("completed", 0) == 0
    assert api.get(path, wait="false")["status"] == "pending"
    api.write("m_1_cycle0.log", steady + DISK_LOG)
    api.client.post("/logs", json={"log_path": path, "analysis_intent": "terminal"})
    assert poll(lambda: api.get(path, wait="false")["status"] == "completed")
    assert causes(api.get(path)) == ["storage"]
    assert (stats()["follow"]["used"], stats()["compute"]["completed"]) == (1, 1)


def test_a_small_pending_log_of_a_splitlog_job_is_resolved_by_the_final_get(api: Api) -> None:
    split = Split(api)
    api.write("slurm-1.out", f"<< START PATHS >>\nLOGS_DIR={api.root}/logs\n<< END PATHS >>\n")
    assert split.post()["mode"] == "pending"
    assert file_of(split.get()) == "model_1_cycle2.log"


@pytest.mark.parametrize(
    ("logs_dir", "status", "code"),
    [("/etc", 403, "outside_root"), ("{root}/way-out", 403, "outside_root"), ("{root}/slurm-1.out", 403, "logs_dir_not_readable")],
)
def test_a_logs_dir_that_may_not_be_used_is_an_error_of_post_and_get(api: Api, logs_dir: str, status: int, code: str) -> None:
    (api.root / "way-out").symlink_to("/etc")
    block = f"<< START PATHS >>\nLOGS_DIR={logs_dir.format(root=api.root)}\n<< END PATHS >>\n"
    log = api.write("slurm-1.out", block + "x" * 5000)
    reply = api.client.post("/logs", json={"log_path": log, "job_id": "1"})
    assert (reply.status_code, reply.json()["error_code"]) == (status, code)
    assert api.client.get("/jobs").json()["returned"] == 0
    api.write("slurm-1.out", block)
    assert api.client.post("/logs", json={"log_path": log, "job_id": "1"}).json()["mode"] == "pending"
    reply = api.client.get("/logs", params={"log_path": log})
    assert (reply.status_code, reply.json()["error_code"]) == (status, code)


def test_a_link_in_logs_dir_that_leaves_the_root_is_no_log_file(split: Split, tmp_path: Path) -> None:
    (tmp_path / "secret_1_x.log").write_text("secret")
    (split.api.root / "logs" / "model_1_cycle9.log").symlink_to(tmp_path / "secret_1_x.log")
    split.post()
    assert file_of(split.get()) == "model_1_cycle2.log"
    assert split.error(file="model_1_cycle9.log")[:2] == (404, "not_found")


def poll(condition: Any, timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False
