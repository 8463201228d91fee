"""The published contract of each route: keys, order, errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attr_actors.adapters.ledger_lock import WriterLock
from tests.api.conftest import Api

PROBLEMS = [
    ("relative.log", 400, "invalid_path"),
    ("", 400, "invalid_path"),
    ("/nul\0byte", 400, "invalid_path"),
    ("/" + "x" * 10_000, 400, "invalid_path"),
    ("/etc/passwd", 403, "outside_root"),
    ("{root}/../outside.log", 403, "outside_root"),
    ("{root}/link-out", 403, "outside_root"),
    ("{root}/directory", 400, "not_regular"),
    ("{root}/fifo", 400, "not_regular"),
    ("{root}/missing.log", 404, "not_found"),
    ("{root}/empty.log", 400, "empty_file"),
]


@pytest.fixture
def odd_places(api: Api) -> Api:
    (api.root / "link-out").symlink_to("/etc/passwd")
    (api.root / "directory").mkdir()
    os.mkfifo(api.root / "fifo")
    api.write("empty.log", "")
    return api


@pytest.mark.parametrize("wait", ["true", "false"])
@pytest.mark.parametrize(("raw", "status", "code"), PROBLEMS)
def test_get_of_a_bad_path_has_its_documented_error(odd_places: Api, raw: str, status: int, code: str, wait: str) -> None:
    path = raw.format(root=odd_places.root)
    reply = odd_places.client.get("/logs", params={"log_path": path, "wait": wait})
    assert (reply.status_code, reply.json()["error_code"]) == (status, code)
    assert list(reply.json()) == ["error_code", "message", "details"]


@pytest.mark.parametrize(("raw", "status", "code"), [p for p in PROBLEMS if p[2] not in ("not_found", "empty_file")])
def test_post_of_a_bad_path_has_its_documented_error_and_changes_nothing(odd_places: Api, raw: str, status: int, code: str) -> None:
    reply = odd_places.client.post("/logs", json={"log_path": raw.format(root=odd_places.root)})
    assert (reply.status_code, reply.json()["error_code"]) == (status, code)
    assert odd_places.client.get("/jobs").json()["returned"] == 0


def test_post_replies_with_the_keys_in_order(api: Api) -> None:
    path = api.write("slurm-123456.out")
    reply = api.client.post("/logs", json={"log_path": path, "unknown_field": 1})
    assert reply.status_code == 200
    expected = {"submitted": True, "normalized_path": path, "mode": "single", "logs_dir": None, "sched_restarts": 0, "files_analyzed": 0}
    assert list(reply.json().items()) == list(expected.items())


def test_post_accepts_a_missing_file_in_an_existing_directory_as_pending(api: Api) -> None:
    reply = api.client.post("/logs", json={"log_path": f"{api.root}/later.log", "job_id": "7"})
    assert (reply.status_code, reply.json()["mode"]) == (200, "pending")


def test_post_of_a_missing_file_in_a_missing_directory_is_not_found(api: Api) -> None:
    reply = api.client.post("/logs", json={"log_path": f"{api.root}/no/such/later.log"})
    assert (reply.status_code, reply.json()["error_code"]) == (404, "not_found")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"log_path": 5}', b'{"user": "x"}', b'{"log_path": "/x", "analysis_intent": "later"}'])
def test_wrong_json_is_422_with_the_faults_twice_and_the_second_time_as_a_string(api: Api, body: bytes) -> None:
    reply = api.client.post("/logs", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert isinstance(reply.json()["details"], list)
    assert isinstance(reply.json()["detail"], str)
    assert set(reply.json()) >= {"error_code", "message"}


def test_get_answers_without_a_prior_post(api: Api) -> None:
    path = api.write("job_778899/out.log")
    body = api.get(path)
    assert list(body) == ["result", "status", "wl_restart", "wl_restart_count", "mode", "recommendation", "attribution"]
    assert body["status"] == "completed"
    assert body["mode"] == "single"
    result = body["result"]
    assert isinstance(result, dict)
    assert list(result) == ["module", "state", "result_id", "result", "error"]
    assert (result["module"], result["state"], len(result["result_id"])) == ("log_analyzer", "complete", 64)
    text, info = result["result"][0]
    assert text.splitlines()[0] == info["auto_resume"] == "STOP - DONT RESTART IMMEDIATE"
    assert text.splitlines()[2] == ""
    assert text.splitlines()[3].startswith("Attribution: Primary issues: [")
    assert text.splitlines()[5] in ("true", "false")
    assert body["recommendation"]["action"] == "STOP"  # type: ignore[index]
    assert body["attribution"]["category"] == "cuda_oom"  # type: ignore[index]


def test_a_second_get_has_the_same_result_id_and_scans_nothing(api: Api) -> None:
    path = api.write("a.log")
    first, second = api.get(path), api.get(path)
    assert first == second
    assert api.client.get("/stats").json()["compute"]["completed"] == 1


def test_a_changed_file_is_analysed_again_after_the_grace_period(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(cache_grace_period_seconds=0)
    path = api.write("a.log")
    first = api.get(path)
    api.write("a.log", "all is well\n" * 3)
    assert api.get(path)["result"]["result_id"] != first["result"]["result_id"]


@pytest.mark.parametrize(("wl_restart", "status"), [(0, 200), (1, 400), (-1, 422), ("x", 422)])
def test_wl_restart_is_checked(api: Api, wl_restart: object, status: int) -> None:
    path = api.write("a.log")
    reply = api.client.get("/logs", params={"log_path": path, "wl_restart": wl_restart})
    assert reply.status_code == status
    if status == 400:
        assert reply.json()["message"] == "wl_restart=1 out of range (file has 1 workload cycle(s))"


def test_a_get_that_does_not_wait_starts_nothing(api: Api) -> None:
    path = api.write("a.log")
    body = api.get(path, wait="false")
    assert (body["status"], body["result"]["state"]) == ("pending", "pending")  # type: ignore[index]
    assert api.client.get("/stats").json()["compute"].get("completed", 0) == 0
    api.get(path)
    assert api.get(path, wait="false")["status"] == "completed"


@pytest.mark.parametrize("data", [b"\0" * 5000, b"\xff\xfeE\0r\0r\0o\0r\0", b"x" * 100_000, bytes(range(256)) * 50, b"\r\r\r"])
def test_odd_bytes_are_analysed(api: Api, data: bytes) -> None:
    assert api.get(api.write("odd.log", data))["status"] == "completed"


def test_print_shows_the_first_4096_bytes_cut_at_a_character(api: Api) -> None:
    path = api.write("a.log", "x" * 4095 + "é and more")
    reply = api.client.get("/print", params={"log_path": path})
    assert reply.text == "x" * 4095
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


def test_unknown_routes_and_wrong_methods_have_the_error_body(api: Api) -> None:
    assert api.client.get("/nope").json()["error_code"] == "not_found"
    assert api.client.delete("/logs").json()["error_code"] == "method_not_allowed"
    assert api.client.delete("/logs").headers["allow"] == "GET, POST"


def test_introspection_answers_and_indents(api: Api) -> None:
    path = api.write("slurm-99.out")
    api.client.post("/logs", json={"log_path": path, "user": "ann", "job_id": "99"})
    jobs = api.client.get("/jobs").json()
    assert jobs["returned"] == sum(jobs[mode]["count"] for mode in ("pending", "single", "splitlog")) == 1
    assert {"log_path", "path", "files_count", "files_analyzed", "created_at", "terminated"} <= set(jobs["jobs"][0])
    assert api.client.get("/jobs", params={"limit": 1001}).status_code == 422
    assert api.client.get("/inflight").json() == {"count": 0, "paths": [], "entries": []}
    assert "\n" not in api.client.get("/stats").text
    assert "\n  " in api.client.get("/stats", params={"pretty": "true"}).text
    assert api.client.get("/healthz").json() == {"status": "ok", "issues": []}
    assert api.client.get("/").status_code == 200
    assert "/logs" in api.client.get("/openapi.json").json()["paths"]


def test_stats_has_the_predecessors_groups(api: Api) -> None:
    groups = "cache submissions in_flight requests compute cleanup persistence splitlog detection deferred permission_errors dataflow slack"
    assert set(groups.split()) <= set(api.client.get("/stats").json())


def test_nothing_outside_the_root_is_named_by_print(api: Api, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    assert api.client.get("/print", params={"log_path": str(tmp_path / "secret")}).status_code == 403


def test_a_ledger_without_its_file_is_told_and_not_an_error_of_the_probes(open_api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = WriterLock(str(tmp_path / "ledger.db.lock"), 0)
    client = open_api(ledger_lock_wait_s=0).client
    reply = client.get("/healthz")
    assert (reply.status_code, reply.json()["status"]) == (200, "fail")
    assert any("in use by process" in issue for issue in reply.json()["issues"])
    assert client.get("/healthz", params={"ready": "true"}).status_code == 503
    assert [client.get(url).status_code for url in ("/stats", "/metrics")] == [200, 200]
    other.release()


def test_nothing_is_acknowledged_while_the_ledger_file_is_moved_away(api: Api, tmp_path: Path) -> None:
    known, new = api.write("known.log"), api.write("new.log")
    api.get(known)
    for part in ("", "-wal"):
        (tmp_path / f"ledger.db{part}").rename(tmp_path / f"away.db{part}")
    replies = [api.client.post("/logs", json={"log_path": new}), api.client.get("/logs", params={"log_path": new})]
    assert [(r.status_code, r.json()["error_code"]) for r in replies] == [(503, "ledger_fault")] * 2
    api.get(known)
    health = api.client.get("/healthz").json()
    assert health["status"] == "fail"
    assert any("was removed or replaced" in issue for issue in health["issues"])
    for part in ("", "-wal"):
        (tmp_path / f"away.db{part}").rename(tmp_path / f"ledger.db{part}")
    api.get(new)
