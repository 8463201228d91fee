"""POST /logs: what comes together goes together, and the short way says what the long one says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from attr_actors.errors import AttrError, NotRegular, Unavailable
from attr_actors.file_threads import FileThreads
from attr_actors.handles import SubmitAnswer
from attr_actors.models import JobMode, JobView, Submission
from serve_app import submit_door
from serve_app.bodies import BODY_BYTES_MAX
from serve_app.submissions import TOGETHER_MAX, Submissions
from tests.api.conftest import Api


class Tracker:
    """Answers what it is told to; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.alone = 0
        self.called, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.fault: AttrError | None = None
        self.slow: set[str] = set()

    async def submit_many(self, submissions: tuple[Submission, ...]) -> tuple[SubmitAnswer, ...]:
        self.calls.append(len(submissions))
        self.called.set()
        await self.gate.wait()
        if self.fault:
            raise self.fault
        return tuple(None if s.path in self.slow else view(s.path) for s in submissions)

    async def submit(self, submission: Submission) -> JobView:
        self.alone += 1
        return view(submission.path)


def view(path: str) -> JobView:
    return JobView(path=path, user="ann", job_id=None, cycle_id=None, mode=JobMode.SINGLE, created_at=1.0, terminated=False)


def check(path: str) -> Callable[[], Submission]:
    def admit() -> Submission:
        if "bad" in path:
            raise NotRegular(f"'{path}' is a directory")
        return Submission(path=path)

    return admit


def run(scenario: Callable[[Submissions, Tracker], Awaitable[None]]) -> None:
    async def body() -> None:
        tracker, files = Tracker(), FileThreads("test", 2, 1000, mounts=lambda: ["/"])
        await scenario(Submissions(tracker, files, 5.0), tracker)  # type: ignore[arg-type]
        files.close()

    asyncio.run(body())


def test_what_comes_while_a_call_is_under_way_goes_with_the_next() -> None:
    async def scenario(submissions: Submissions, tracker: Tracker) -> None:
        tracker.gate.clear()
        first = asyncio.create_task(submissions.submit("/0", check("/0")))
        await tracker.called.wait()
        rest = [asyncio.create_task(submissions.submit(f"/{n}", check(f"/{n}"))) for n in range(1, 51)]
        await asyncio.sleep(0.01)
        assert tracker.calls == [1]
        tracker.gate.set()
        assert [job.path for job in await asyncio.gather(first, *rest)] == [f"/{n}" for n in range(51)]
        assert tracker.calls == [1, 50]

    run(scenario)


def test_no_call_carries_more_than_its_limit() -> None:
    async def scenario(submissions: Submissions, tracker: Tracker) -> None:
        jobs = await asyncio.gather(*(submissions.submit(f"/{n}", check(f"/{n}")) for n in range(2 * TOGETHER_MAX + 50)))
        assert [job.path for job in jobs] == [f"/{n}" for n in range(2 * TOGETHER_MAX + 50)]
        assert tracker.calls == [TOGETHER_MAX, TOGETHER_MAX, 50]

    run(scenario)


def test_a_bad_path_fails_alone() -> None:
    async def scenario(submissions: Submissions, tracker: Tracker) -> None:
        paths = ["/a", "/bad", "/b"]
        answers = await asyncio.gather(*(submissions.submit(p, check(p)) for p in paths), return_exceptions=True)
        assert [type(answer) for answer in answers] == [JobView, NotRegular, JobView]
        assert tracker.calls == [2]

    run(scenario)


def test_one_that_would_hold_up_the_others_goes_alone() -> None:
    async def scenario(submissions: Submissions, tracker: Tracker) -> None:
        tracker.slow = {"/b"}
        jobs = await asyncio.gather(*(submissions.submit(p, check(p)) for p in ("/a", "/b")))
        assert ([job.path for job in jobs], tracker.alone) == (["/a", "/b"], 1)

    run(scenario)


def test_a_call_that_fails_fails_its_own_and_the_next_goes_on() -> None:
    async def scenario(submissions: Submissions, tracker: Tracker) -> None:
        tracker.fault = Unavailable("the tracker is restarting")
        answers = await asyncio.gather(*(submissions.submit(f"/{n}", check(f"/{n}")) for n in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 3
        tracker.fault = None
        assert (await submissions.submit("/a", check("/a"))).path == "/a"

    run(scenario)


def test_a_client_that_goes_away_takes_nobody_with_it() -> None:
    async def scenario(submissions: Submissions, tracker: Tracker) -> None:
        tracker.gate.clear()
        first, second = (asyncio.create_task(submissions.submit(p, check(p))) for p in ("/a", "/b"))
        await tracker.called.wait()
        first.cancel()
        await asyncio.sleep(0)
        tracker.gate.set()
        assert (await second).path == "/b"

    run(scenario)


def test_many_clients_of_the_service_get_each_their_own_answer(api: Api) -> None:
    paths = [api.write(f"{n}.log") for n in range(40)] + [str(api.root)] * 5 + ["relative"] * 5
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda path: api.client.post("/logs", json={"log_path": path}), paths))
    assert [r.status_code for r in replies] == [200] * 40 + [400] * 10
    assert [r.json()["normalized_path"] for r in replies[:40]] == paths[:40]
    assert api.client.get("/jobs").json()["returned"] == 40


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "log_path": st.one_of(st.text(max_size=20), st.none(), st.integers(), st.just("LOG"), st.just("LOG"), st.just("LOG")),
    "user": st.one_of(st.text(max_size=5), st.none(), st.floats(allow_nan=False)),
    "job_id": st.one_of(st.none(), st.text(max_size=5), st.integers()),
    "cycle_id": st.one_of(st.none(), st.integers(-(2**70), 2**70), st.text(max_size=3), st.floats(), st.booleans()),
    "analysis_intent": st.one_of(st.sampled_from(["track_only", "progressive", "terminal", "TERMINAL"]), st.none()),
    "extra": st.text(max_size=3),
}
BODIES = st.one_of(st.fixed_dictionaries({}, optional=FIELDS).map(json.dumps), st.binary(max_size=30), st.text(max_size=30))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, kind=st.sampled_from(["application/json", "application/json", "application/json; charset=utf-8", "text/plain", ""]))
def test_the_short_way_and_fastapi_answer_alike(api: Api, body: str | bytes, kind: str) -> None:
    path = api.write("same.log", "x\n")
    sent = (body if isinstance(body, bytes) else body.encode(errors="surrogatepass")).replace(b'"LOG"', json.dumps(path).encode())
    headers = {"content-type": kind} if kind else {}
    short = api.client.post("/logs", content=sent, headers=headers)
    with_fastapi = TestClient(api.door.api, raise_server_exceptions=False).post("/logs", content=sent, headers=headers)
    assert (short.status_code, _settled(short.content)) == (with_fastapi.status_code, _settled(with_fastapi.content))
    assert short.headers["content-type"] == with_fastapi.headers["content-type"]


def test_a_long_body_is_read_all_the_same(api: Api) -> None:
    path = api.write("a.log")
    reply = api.client.post("/logs", json={"log_path": path, "note": "x" * 200_000})
    assert (reply.status_code, reply.json()["normalized_path"]) == (200, path)


def test_a_body_beyond_the_limit_is_refused_and_not_kept(api: Api) -> None:
    path = api.write("a.log")
    reply = api.client.post("/logs", json={"log_path": path, "note": "x" * BODY_BYTES_MAX})
    assert (reply.status_code, reply.json()["error_code"]) == (413, "body_too_large")
    chunks = (b"x" * 100_000 for _ in range(20))
    assert api.client.post("/logs", content=chunks, headers={"content-type": "application/json"}).status_code == 413


def test_a_body_that_does_not_end_is_judged_as_it_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_door, "BODY_S", 0.05)
    sent: list[dict[str, Any]] = []
    begun = iter([{"type": "http.request", "body": b'{"log_path": "/', "more_body": True}])

    async def receive() -> dict[str, Any]:
        return next(begun, None) or await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/logs", "query_string": b"", "headers": [(b"content-type", b"application/json")]}
    assert api.client.portal
    api.client.portal.call(api.door, scope | {"client": ("192.0.2.1", 1)}, receive, send)
    assert sent[0]["status"] == 422


@pytest.mark.parametrize("field", ["user", "job_id"])
@pytest.mark.parametrize("value", ["\\ud800", "a\\nb", "\\u0000", "\\u001b[31m", "x" * 257])
def test_a_name_that_could_not_be_stored_or_would_forge_a_line_is_refused(api: Api, field: str, value: str) -> None:
    path = api.write("a.log")
    body = f'{{"log_path": "{path}", "{field}": "{value}"}}'
    reply = api.client.post("/logs", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 422
    assert api.client.get("/jobs").json()["returned"] == 0


def test_a_bug_is_an_internal_error_and_the_submission_is_tried_once(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[object] = []

    async def submit(body: object, _: object) -> None:
        tried.append(body)
        raise ZeroDivisionError

    monkeypatch.setattr(api.door._service, "submit", submit)
    reply = api.client.post("/logs", json={"log_path": "/x"})
    assert (reply.status_code, reply.json()["error_code"], len(tried)) == (500, "internal_error", 1)
    assert reply.headers["content-type"] == "application/json"
    assert "unexpected error in POST /logs" in caplog.text


def test_the_log_of_requests_names_the_path_and_the_job(api: Api, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level("INFO", "attr_actors.requests")
    api.client.post("/logs", json={"log_path": api.write("a.log"), "job_id": "7"})
    [record] = [r for r in caplog.records if r.getMessage() == "submit 200"]
    assert (record.log_path, record.job) == (str(api.root / "a.log"), "7")  # type: ignore[attr-defined]


def _settled(body: bytes) -> bytes:
    """Leave out how far the analysis in the background is: it goes on between two requests."""
    return re.sub(rb'"files_analyzed":\d+', b"", body)
