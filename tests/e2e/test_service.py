"""The service over HTTP: one flight per path, answers that survive kills, and a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import OOM_LOG
from tests.e2e.conftest import Service, start_service, stop_service

KILLS = int(os.environ.get("ATTR_ACTORS_KILLS", "1"))
"""kill -9 of each process this many times; raise it for a longer trial."""

REQUEST_TIMEOUT_S = 60


def test_the_documented_errors_come_over_http(service: Service) -> None:
    (service.root / "directory").mkdir(exist_ok=True)
    if not (service.root / "fifo").exists():
        os.mkfifo(service.root / "fifo")
    cases = {
        "relative.log": (400, "invalid_path"),
        "/etc/passwd": (403, "outside_root"),
        f"{service.root}/directory": (400, "not_regular"),
        f"{service.root}/fifo": (400, "not_regular"),
        f"{service.root}/missing.log": (404, "not_found"),
        service.write("empty.log", ""): (400, "empty_file"),
    }
    for path, expected in cases.items():
        reply = service.get(path)
        assert (reply.status_code, reply.json()["error_code"]) == expected


def test_fifty_concurrent_gets_of_a_cold_path_cause_one_analysis_and_fifty_equal_answers(service: Service) -> None:
    path = service.write("cold.log", OOM_LOG + "x\n" * 200_000)
    before = service.client.get("/stats").json()["compute"].get("completed", 0)

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S) as client:
            return await asyncio.gather(*(client.get(f"{service.url}/logs", params={"log_path": path}) for _ in range(50)))

    replies = asyncio.run(ask_all())
    assert Counter(r.status_code for r in replies) == {200: 50}
    assert len({r.text for r in replies}) == 1
    assert service.client.get("/stats").json()["compute"]["completed"] == before + 1


def test_each_reply_has_one_request_id_which_is_the_clients_own_where_it_named_one(service: Service) -> None:
    path = service.write("named.log", OOM_LOG)
    for params in ({"log_path": path}, {"log_path": path}, {"log_path": "/etc/passwd"}):
        reply = service.client.get("/logs", params=params, headers={"X-Request-ID": "my-request"})
        assert reply.headers.get_list("x-request-id") == ["my-request"]
        assert len(service.client.get("/logs", params=params).headers.get_list("x-request-id")) == 1


@pytest.mark.long
def test_without_haproxy_the_service_answers_through_serves_own_proxy(tmp_path: Path) -> None:
    service = start_service(tmp_path, RAY_SERVE_HAPROXY_BINARY_PATH=str(tmp_path / "none"))
    try:
        assert "HAProxy does not run here" in (tmp_path / "service.log").read_text()
        path = service.write("a.log", OOM_LOG)
        assert service.post(path, job_id="7").status_code == 200
        assert service.get(path).json()["recommendation"]["action"] == "STOP"
        assert service.get("/etc/passwd").status_code == 403
    finally:
        assert stop_service(service) == 0


def test_a_client_that_disconnects_does_not_stop_the_flight(service: Service) -> None:
    path = service.write("left.log", OOM_LOG + "y\n" * 20_000_000)
    with pytest.raises(httpx.TimeoutException):
        httpx.get(f"{service.url}/logs", params={"log_path": path}, timeout=0.01)
    deadline = time.monotonic() + 30
    while service.get(path, wait="false").json()["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_lies_where_the_service_was_started_is_not_imported(service: Service) -> None:
    assert (service.root.parent / "mcp.py").exists()
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    reply = service.client.post("/mcp", json=asked, headers={"Accept": "application/json, text/event-stream"})
    assert (reply.status_code, "analyze_log" in reply.text) == (200, True)


class Traffic:
    """Threads that POST and GET without a pause and remember every acknowledged answer."""

    def __init__(self, service: Service, paths: list[str]) -> None:
        self._service = service
        self._paths = paths
        self._stop = threading.Event()
        self.acknowledged: dict[str, set[str]] = {path: set() for path in paths}
        self.problems: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(4)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_TIMEOUT_S)

    def _run(self, offset: int) -> None:
        with httpx.Client(base_url=self._service.url, timeout=REQUEST_TIMEOUT_S) as client:
            number = offset
            while not self._stop.is_set():
                path = self._paths[number % len(self._paths)]
                number += 1
                self._ask(client, path, post=number % 3 == 0)

    def _ask(self, client: httpx.Client, path: str, post: bool) -> None:
        started = time.monotonic()
        try:
            if post:
                reply = client.post("/logs", json={"log_path": path, "user": "ann", "job_id": "7"})
            else:
                reply = client.get("/logs", params={"log_path": path})
        except httpx.HTTPError as exc:
            self.problems[repr(exc)[:100]] += 1
            return
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.statuses[reply.status_code] += 1
        if reply.status_code == 503:
            assert "retry-after" in reply.headers
        elif reply.status_code != 200:
            self.problems[f"{reply.status_code} {reply.text[:200]}"] += 1
        elif not post and reply.json()["status"] == "completed":
            self.acknowledged[path].add(reply.json()["result"]["result_id"])


@pytest.mark.timeout(560)
def test_kill_9_of_any_process_loses_no_acknowledged_answer(tmp_path: Path) -> None:
    service = start_service(tmp_path, NVRX_ATTRSVC_RATE_LIMIT_ANALYZE="1000000/minute", NVRX_ATTRSVC_RATE_LIMIT_SUBMIT="1000000/minute")
    try:
        paths = [service.write(f"job-{i}.log", OOM_LOG + f"run {i}\n" * 100) for i in range(200)]
        with Traffic(service, paths) as traffic:
            for victim in ("ledger", "tracker", "analyzer-0", "analyzer-1", "replica") * KILLS:
                print(f"{victim}: back after {kill_and_wait(service, victim):.1f} s")
        print(f"statuses: {dict(traffic.statuses)}, slowest request: {traffic.slowest_s:.1f} s")
        assert not traffic.problems
        assert traffic.slowest_s < REQUEST_TIMEOUT_S
        assert traffic.statuses[200] >= 10 * KILLS
        for path, answers in traffic.acknowledged.items():
            assert len(answers | {service.get(path).json()["result"]["result_id"]}) == 1
    finally:
        assert stop_service(service) == 0


def kill_and_wait(service: Service, victim: str) -> float:
    """kill -9 one process, wait until another has taken its place, and return how long that took, s."""
    old = service.pids()[victim]
    os.kill(old, signal.SIGKILL)
    started = time.monotonic()
    deadline = started + 60
    while True:
        assert time.monotonic() < deadline, f"{victim} did not come back"
        reply = service.client.get("/stats")
        if reply.status_code == 200 and int(reply.json()["actors"][f"{victim}.pid"]) not in (0, old):
            return time.monotonic() - started
        time.sleep(0.1)
