"""What stands before the routes: keys, limits, and answers from memory."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attr_actors.core.access import KeyRow, hash_token, render_keys
from attr_actors.core.paths import LogPath, admit
from attr_actors.errors import Unavailable
from attr_actors.models import Health
from tests.api.conftest import OOM_LOG, Api


def test_a_repeated_get_is_answered_from_memory_with_the_same_bytes(api: Api) -> None:
    path = api.write("a.log")
    first, second = (api.client.get("/logs", params={"log_path": path}) for _ in range(2))
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert api.client.get("/stats").json()["cache"]["replica_hits"] == 1


def test_memory_is_not_asked_after_the_bound(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(answer_cache_age_max_s=0)
    path = api.write("a.log")
    api.get(path), api.get(path)
    stats = api.client.get("/stats").json()["cache"]
    assert (stats.get("replica_hits", 0), stats["hits"]) == (0, 1)


def test_after_the_grace_period_a_kept_reply_stands_while_the_log_does(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(cache_grace_period_seconds=0)
    path = api.write("a.log")
    first = api.get(path)
    assert api.get(path) == first
    assert api.client.get("/stats").json()["cache"]["replica_hits"] == 1
    api.write("a.log", OOM_LOG + "more\n")
    assert api.get(path)["result"]["result_id"] != first["result"]["result_id"]
    os.unlink(path)
    assert api.client.get("/logs", params={"log_path": path}).status_code == 404


def test_memory_is_bounded_in_bytes(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(answer_cache_bytes_max=40_000)
    for number in range(20):
        api.get(api.write(f"{number}.log"))
    assert 0 < api.client.get("/stats").json()["cache"]["replica_bytes"] <= 40_000


def test_an_unfinished_or_wrong_get_is_not_kept(api: Api) -> None:
    path = api.write("a.log")
    api.get(path, wait="false")
    api.client.get("/logs", params={"log_path": path, "wl_restart": 7})
    assert api.client.get("/stats").json()["cache"]["replica_entries"] == 0


def test_above_the_limit_there_is_429_with_the_time_to_wait(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(rate_limit_analyze="3/minute", rate_limit_submit="1/minute")
    path = api.write("a.log")
    replies = [api.client.get("/logs", params={"log_path": path}) for _ in range(4)]
    assert [r.status_code for r in replies] == [200, 200, 200, 429]
    assert [r.headers["x-ratelimit-remaining"] for r in replies] == ["2", "1", "0", "0"]
    refused = replies[-1]
    assert (refused.json()["error_code"], refused.headers["x-ratelimit-limit"]) == ("rate_limited", "3")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert api.client.post("/logs", json={"log_path": path}).status_code == 200  # Another limit.
    assert api.client.get("/healthz").status_code == 200  # No limit.


def test_waiting_for_a_flight_of_another_is_not_charged(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(rate_limit_analyze="4/hour")
    path = api.write("slow.log", OOM_LOG + "x\n" * 50_000)
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda _: api.client.get("/logs", params={"log_path": path}), range(4)))
    assert [r.status_code for r in replies] == [200] * 4
    last = api.client.get("/logs", params={"log_path": path})
    assert (last.status_code, last.headers["x-ratelimit-remaining"]) == (200, "2")


class Keyed:
    """An API with keys."""

    def __init__(self, open_api, place: Path, **settings: object) -> None:  # type: ignore[no-untyped-def]
        self.file = place / "keys.json"
        self.rows: list[KeyRow] = []
        self.add("reader", "read")
        self.add("monitor", "read", "submit")
        self.add("boss", "admin")
        self.api: Api = open_api(api_keys_file=str(self.file), **settings)

    def add(self, name: str, *scopes: str, root: str | None = None) -> None:
        self.rows.append(KeyRow.model_validate({"name": name, "scopes": scopes, "sha256": hash_token(name), "root": root}))
        self.file.write_text(render_keys(self.rows))

    def tick(self) -> None:
        """Let the door look at the file, as it does every second."""
        assert self.api.client.portal is not None
        self.api.client.portal.call(self.api.door.tick)

    def status(self, key: str | None, method: str, url: str, **kwargs: object) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return int(self.api.client.request(method, url, headers=headers, **kwargs).status_code)  # type: ignore[arg-type]


@pytest.fixture
def keyed(open_api, tmp_path: Path) -> Keyed:  # type: ignore[no-untyped-def]
    return Keyed(open_api, tmp_path)


def test_each_route_asks_for_its_scope_and_probes_stay_open(keyed: Keyed) -> None:
    path = keyed.api.write("a.log")
    submit, get = ("POST", "/logs", {"json": {"log_path": path}}), ("GET", "/logs", {"params": {"log_path": path}})
    show = ("GET", "/print", {"params": {"log_path": path}})
    for method, url, more in [submit, get, show, ("GET", "/jobs", {}), ("GET", "/stats", {}), ("GET", "/inflight", {})]:
        wanted = {"reader": 403 if method == "POST" else 200, "monitor": 200, "boss": 200, None: 401, "nobody": 401}
        assert {key: keyed.status(key, method, url, **more) for key in wanted} == wanted
    assert [keyed.status(None, "GET", url) for url in ("/", "/healthz")] == [200, 200]


def test_an_unknown_path_is_told_only_to_whom_may_read(keyed: Keyed) -> None:
    for path in ("/nothing", "/logs/", "/docs/../stats", "/mcp/"):
        assert keyed.status(None, "GET", path) == 401
    assert keyed.status(None, "PUT", "/logs") == 401
    assert keyed.status("reader", "GET", "/nothing") == 404
    for path in ("/healthz", "/", "/docs", "/openapi.json"):
        assert keyed.status(None, "GET", path) == 200


def test_401_has_the_error_body_and_says_how_to_authenticate(keyed: Keyed) -> None:
    reply = keyed.api.client.get("/stats")
    assert (reply.status_code, reply.json()["error_code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert list(reply.json()) == ["error_code", "message", "details"]
    assert keyed.api.client.get("/stats", headers={"X-API-Key": "reader"}).status_code == 200


def test_a_key_with_a_root_reads_nothing_beyond_it_and_shares_no_kept_reply(keyed: Keyed) -> None:
    ours, theirs = keyed.api.write("ours/a.log"), keyed.api.write("theirs/a.log")
    keyed.add("team", "read", "submit", root=f"{keyed.api.root}/ours")
    keyed.add("elsewhere", "read", root="/etc")
    (keyed.api.root / "ours" / "link.log").symlink_to(theirs)
    keyed.tick()
    assert keyed.status("boss", "GET", "/logs", params={"log_path": theirs}) == 200
    assert keyed.status("team", "GET", "/logs", params={"log_path": ours}) == 200
    for path in (theirs, f"{keyed.api.root}/ours/../theirs/a.log", f"{keyed.api.root}/ours/link.log"):
        assert keyed.status("team", "GET", "/logs", params={"log_path": path}) == 403
        assert keyed.status("team", "GET", "/print", params={"log_path": path}) == 403
        assert keyed.status("team", "POST", "/logs", json={"log_path": path}) == 403
    assert keyed.status("team", "GET", "/jobs") == 403
    assert keyed.status("elsewhere", "GET", "/logs", params={"log_path": ours}) == 403


def test_two_keys_do_not_share_a_limit(open_api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    keyed = Keyed(open_api, tmp_path, rate_limit_preview="1/minute")
    path = keyed.api.write("a.log")
    asked = [keyed.status(key, "GET", "/print", params={"log_path": path}) for key in ("reader", "reader", "monitor")]
    assert asked == [200, 429, 200]


def test_a_changed_key_file_is_read_again_and_a_broken_one_leaves_the_former_keys(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.overview.HEALTH_AGE_MAX_S", 0.05)
    keyed.add("late", "read")
    keyed.tick()
    assert keyed.status("late", "GET", "/stats") == 200
    keyed.rows = [row for row in keyed.rows if row.name != "late"]
    keyed.add("other", "read")
    keyed.tick()
    assert keyed.status("late", "GET", "/stats") == 401
    keyed.file.write_text("{")
    keyed.tick()
    assert keyed.status("reader", "GET", "/stats") == 200
    deadline = time.monotonic() + 10
    while not (issues := keyed.api.client.get("/healthz").json()["issues"]):  # Health may be as old as its bound.
        assert time.monotonic() < deadline
    assert "API keys" in issues[0]


def test_a_hung_file_system_is_503_at_once_and_probes_and_kept_replies_stay_fast(open_api, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    api = open_api(file_timeout_s=0.1, file_threads=2)
    path, mended = api.write("a.log"), threading.Event()
    api.get(path)
    threads_before = threading.active_count()

    def hang(raw: str, root: str) -> None:
        assert mended.wait(60)

    monkeypatch.setattr("serve_app.service.admit", hang)
    try:
        statuses = [api.client.get("/logs", params={"log_path": api.write(f"{n}.log")}).status_code for n in range(20)]
        assert statuses == [503] * 20
        started = time.monotonic()
        refused = api.client.get("/logs", params={"log_path": path + "x"})
        assert time.monotonic() - started < 0.1
        assert (refused.status_code, refused.json()["error_code"], refused.headers["retry-after"]) == (503, "unavailable", "10")
        assert api.client.get("/logs", params={"log_path": path}).status_code == 200
        assert "does not answer" in api.client.get("/healthz").json()["issues"][0]
        assert threading.active_count() <= threads_before + 2
    finally:
        mended.set()


@pytest.mark.parametrize(("name", "ready"), [("ledger", 503), ("tracker", 503), ("meter", 200)])
def test_an_actor_that_does_not_answer_is_named_and_a_vital_one_means_not_ready(  # type: ignore[no-untyped-def]
    open_api, monkeypatch: pytest.MonkeyPatch, name: str, ready: int
) -> None:
    monkeypatch.setattr("serve_app.overview.HEALTH_AGE_MAX_S", 0.0)
    monkeypatch.setattr("serve_app.overview.HEALTH_KEPT_S", 0.0)
    monkeypatch.setattr("serve_app.overview.HEALTH_WAIT_S", 0.2)
    api = open_api()
    assert api.client.get("/healthz", params={"ready": "true"}).status_code == 200
    named = api.door._overview._actors.named
    stopped = named[name] = Stopped(named[name])
    monkeypatch.setattr(named["limiter"], "health", away)
    for params, status in (({"ready": "true"}, ready), ({}, 200)):
        reply = api.client.get("/healthz", params=params)
        assert (reply.status_code, reply.json()) == (
            status,
            {"status": "degraded", "issues": [f"{name}: takes longer than 0.2 s to tell how it is", "limiter: it restarts"]},
        )
    stopped.goes_on.set()
    deadline = time.monotonic() + 10
    while api.client.get("/healthz", params={"ready": "true"}).status_code != 200:
        assert time.monotonic() < deadline


async def away() -> Health:
    raise Unavailable("it restarts")


class Stopped:
    """An actor whose process is stopped, as by SIGSTOP, until it ``goes_on``."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.goes_on = threading.Event()

    def __getattr__(self, method: str) -> Any:
        return getattr(self._actor, method)

    async def health(self) -> Health:
        await asyncio.to_thread(self.goes_on.wait, 60)
        return await self._actor.health()


def test_more_waiting_requests_than_allowed_are_refused_and_probes_are_not(open_api, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    api = open_api(waiting_requests_max=1)
    path, entered, mended = api.write("a.log"), threading.Event(), threading.Event()

    def hang(raw: str, root: str) -> LogPath:
        entered.set()
        assert mended.wait(60)
        return admit(raw, root)

    monkeypatch.setattr("serve_app.service.admit", hang)
    with ThreadPoolExecutor(1) as one:
        first = one.submit(api.client.get, "/logs", params={"log_path": path})
        assert entered.wait(10)
        refused = api.client.get("/logs", params={"log_path": path})
        assert (refused.status_code, refused.json()["error_code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert api.client.get("/healthz").status_code == 200
        mended.set()
        assert first.result(60).status_code == 200


def test_streams_for_assistants_are_refused_and_take_no_place(open_api) -> None:  # type: ignore[no-untyped-def]
    api = open_api(waiting_requests_max=1)
    path = api.write("a.log")
    for method in ("GET", "DELETE") * 3:
        refused = api.client.request(method, "/mcp", headers={"accept": "text/event-stream"})
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert api.client.get("/logs", params={"log_path": path}).status_code == 200
    assert "405" in api.client.get("/openapi.json").json()["info"]["description"]


def test_metrics_name_routes_statuses_and_verdicts(api: Api) -> None:
    api.get(api.write("a.log"))
    api.client.get("/logs", params={"log_path": "/etc/passwd"})
    text = api.client.get("/metrics").text
    assert 'attr_http_requests_total{route="result",status="200"} 1' in text
    assert 'attr_http_requests_total{route="result",status="403"} 1' in text
    assert 'attr_http_request_seconds_count{route="result"} 2' in text
    assert 'attr_verdicts_total{category="cuda_oom",action="STOP"} 1' in text
    assert "attr_health 0" in text


def test_each_request_that_was_worked_on_is_logged_with_its_name(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    path = api.write("a.log")
    with caplog.at_level("INFO", "attr_actors.requests"):
        api.client.get("/logs", params={"log_path": path}, headers={"X-Request-ID": "my-request.1"})
        api.client.post("/logs", json={"log_path": path, "job_id": "7"}, headers={"X-Request-ID": "bad\tname"})
    records = [record.__dict__ for record in caplog.records if record.name == "attr_actors.requests"]
    assert [(r["message"], r["log_path"]) for r in records] == [("result 200", path), ("submit 200", path)]
    assert (records[0]["request_id"], records[1]["job"]) == ("my-request.1", "7")
    assert records[1]["request_id"] not in ("bad\tname", "")


def test_a_log_that_names_another_keys_directory_shows_nothing_that_lies_there(open_api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    keyed = Keyed(open_api, tmp_path)
    api = keyed.api
    secret = api.write("ann/dir/secretproj_777_cycle2.log")
    log = api.write("bob/slurm-777.out", f"<< START PATHS >>\nLOGS_DIR={Path(secret).parent}\n<< END PATHS >>\n" + "x\n" * 3000)
    keyed.add("bob", "read", "submit", root=str(api.root / "bob"))
    keyed.tick()
    headers = {"Authorization": "Bearer bob"}
    assert api.client.post("/logs", json={"log_path": log, "job_id": "777"}, headers=headers).json()["mode"] == "splitlog"
    asked = [{}, {"file": Path(secret).name}, {"file": "guessed_777_cycle2.log"}, {"all_files": True}]
    replies = [api.client.get("/logs", params={"log_path": log, **more}, headers=headers) for more in asked]
    assert len({reply.text for reply in replies}) == 1
    assert (replies[0].status_code, replies[0].json()["error_code"]) == (403, "outside_root")
    assert "secretproj" not in replies[0].text


def test_a_root_that_is_gone_is_told_and_no_log_is_said_to_be_missing(api: Api) -> None:
    path = api.write("a.log")
    tick(api)
    assert api.client.get("/healthz").json()["issues"] == []
    moved = api.root.rename(api.root.with_name("moved"))
    for reply in (api.client.get("/logs", params={"log_path": path}), api.client.post("/logs", json={"log_path": path})):
        assert (reply.status_code, reply.json()["error_code"]) == (503, "unavailable")
        assert int(reply.headers["retry-after"]) >= 1
        assert "is it mounted?" in reply.json()["message"]
    tick(api)
    until(lambda: any("is it mounted?" in issue for issue in api.client.get("/healthz?pretty=true").json()["issues"]))
    moved.rename(api.root)
    tick(api)
    assert api.client.get("/logs", params={"log_path": path}).status_code == 200
    until(lambda: api.client.get("/healthz?pretty=true").json()["status"] == "ok")


def tick(api: Api) -> None:
    """Let the door look around, as it does every second."""
    assert api.client.portal is not None
    api.client.portal.call(api.door.tick)


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
