"""The client against the real API, with a door in between that refuses, breaks off and forgets to answer."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from attr_actors import client as client_module
from attr_actors.client import AsyncAttributionClient, AttributionClient, Patience
from attr_actors.client_wire import Calls, _errors_by_code
from attr_actors.errors import AttrError, InvalidParameter, NotFound, OutsideRoot, RateLimited, RequestError, Unavailable
from attr_actors.models import Action, Intent, JobMode
from tests.loopback import DROP, GARBAGE, HTML, LOSE, Fault, Loopback, Reply, Request, status
from tests.tools.conftest import Running

REFUSED = {"error_code": "rate_limited", "message": "60 per minute", "details": None}
BUSY = {"error_code": "overloaded", "message": "queues are full", "details": None}


class Door(Loopback):
    """Passes requests on to the API, but for the faults."""

    def __init__(self, behind: Running) -> None:
        super().__init__()
        self.behind = behind
        self._client = httpx.Client(base_url=behind.url)

    def answer(self, request: Request) -> Reply:
        headers = {"content-type": "application/json"} if request.body else {}
        reply = self._client.request(request.method, request.path, content=request.body, headers=headers)
        return Reply(reply.status_code, reply.content, {}, reply.headers["content-type"])


@pytest.fixture
def door(running: Running) -> Iterator[Door]:
    behind = Door(running)
    with behind.serving():
        yield behind
    behind._client.close()


FAULTS: dict[str, list[Fault]] = {
    "none": [],
    "429 with Retry-After": [status(429, REFUSED, Retry_After="0")] * 2,
    "503 with Retry-After": [status(503, BUSY, Retry_After="0")] * 2,
    "503 of a proxy": [status(503, b"<html>sorry</html>")],
    "404 of Serve's proxy while HAProxy starts": [status(404, b"Path '/logs' not found. Ping http://.../-/routes for available routes.")],
    "reset before the request": [DROP, DROP],
    "reset before the reply": [LOSE],
    "all of it": [DROP, status(429, REFUSED, Retry_After="0"), LOSE, status(503, BUSY, Retry_After="0"), status(502, b"bad gateway")],
}


HASTY = Patience(first_pause_s=0.01)


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_job_is_submitted_and_answered_through_every_fault(door: Door, faults: list[Fault], tmp_path: Path) -> None:
    path = door.behind.write(f"sync/{tmp_path.name}.out")
    with AttributionClient(door.url, patience=HASTY) as client:
        before = client.stats()["compute"].get("completed", 0)
        door.faults.extend(faults)
        submitted = client.submit(path, user="ann", job_id="1234", analysis_intent=Intent.TERMINAL)
        assert submitted.normalized_path == path
        door.faults.extend(faults)
        answer = client.result(path)
        assert not door.faults
        assert answer.attribution
        assert answer.attribution.action is Action.STOP
        assert [(job.user, job.job_id) for job in client.jobs(limit=1).jobs] == [("ann", "1234")]
        assert client.stats()["compute"]["completed"] == before + 1  # A repeated request repeats no work.


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_the_async_client_does_the_same(door: Door, faults: list[Fault], tmp_path: Path) -> None:
    path = door.behind.write(f"async/{tmp_path.name}.out")

    async def main() -> None:
        async with AsyncAttributionClient(door.url, patience=HASTY) as client:
            before = (await client.stats())["compute"].get("completed", 0)
            door.faults.extend(faults)
            assert (await client.submit(path)).normalized_path == path
            door.faults.extend(faults)
            answer = await client.result(path, wl_restart=0)
            assert answer.attribution
            assert not door.faults
            assert "Traceback" in await client.preview(path)
            assert (await client.health()).status == "ok"
            assert (await client.inflight()).count == 0
            assert path in {job.path for job in (await client.jobs(JobMode.SINGLE)).jobs}
            assert (await client.stats())["compute"]["completed"] == before + 1

    asyncio.run(main())


def test_retry_after_is_waited_for(door: Door) -> None:
    door.faults.append(status(429, REFUSED, Retry_After="1"))
    started = time.monotonic()
    with AttributionClient(door.url) as client:
        client.health()
    assert 1.0 <= time.monotonic() - started < 5


@pytest.mark.parametrize("after", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_pause_beyond_the_patience_is_the_services_error_at_once(door: Door, after: str) -> None:
    door.faults.append(status(429, REFUSED, Retry_After=after))
    with AttributionClient(door.url) as client, pytest.raises(RateLimited, match="60 per minute") as refused:
        client.result(door.behind.write("a.log"))
    assert len(door.requests) == 1
    assert refused.value.retry_after_s
    assert refused.value.retry_after_s >= 3600


def test_the_pause_is_the_callers_own(door: Door) -> None:
    naps: list[float] = []
    door.faults.extend([status(429, REFUSED, Retry_After="7"), status(503, BUSY, Retry_After="2")])
    with AttributionClient(door.url, pause=naps.append) as client:
        client.health()
    assert naps == [7.0, 2.0]


def test_the_docstring_example_runs(running: Running) -> None:
    path = running.write("doc/slurm-1234.out", "x\n" * 4096 + "ModuleNotFoundError: No module named 'apex'\n")
    ran = doctest.testmod(client_module, extraglobs={"url": running.url, "path": path})
    assert (ran.attempted, ran.failed) == (2, 0)


def test_both_clients_have_the_same_methods_with_names_parameters_and_docstrings() -> None:
    for name in (name for name in vars(Calls) if not name.startswith("_")):
        described = getattr(Calls, name)
        for client in (AttributionClient, AsyncAttributionClient):
            method = getattr(client, name)
            assert (method.__name__, method.__doc__) == (name, described.__doc__)
            assert [*inspect.signature(method).parameters] == ["self", *inspect.signature(described).parameters]


def test_attempts_are_bounded(door: Door) -> None:
    door.faults.extend([DROP] * 10)
    with (
        AttributionClient(door.url, patience=Patience(attempts_max=3, first_pause_s=0.01)) as client,
        pytest.raises(Unavailable, match="did not answer"),
    ):
        client.health()
    assert len(door.requests) == 3


def test_what_is_wrong_with_the_request_is_typed_and_not_repeated(door: Door) -> None:
    with AttributionClient(door.url) as client:
        with pytest.raises(OutsideRoot, match="outside the allowed root"):
            client.result("/etc/passwd")
        with pytest.raises(NotFound):
            client.result(str(door.behind.root / "none.log"))
        with pytest.raises(NotFound):
            client.preview(str(door.behind.root / "none.log"))
        with pytest.raises(InvalidParameter, match="limit"):
            client.jobs(limit=5000)
    assert len(door.requests) == 4


@pytest.mark.parametrize(
    ("code", "body"), [(404, b"Path '/stats' not found"), (403, b"<html>no</html>"), (500, {"detail": "no"}), (400, [])]
)
def test_a_refusal_without_an_error_code_is_not_the_services_and_may_pass(door: Door, code: int, body: object) -> None:
    door.faults.extend([status(code, body)] * 2)
    with AttributionClient(door.url, patience=Patience(attempts_max=2, first_pause_s=0.01)) as client:
        with pytest.raises(Unavailable, match=f"answered {code} without an error code"):
            client.stats()
        assert client.stats()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (404, {"error_code": "errorcode.not_found", "message": "file not found", "details": None}, NotFound),
        (404, {"error_code": "job_gone", "message": "a code of its own"}, RequestError),
        (422, {"detail": [{"loc": ["query", "log_path"], "msg": "field required"}]}, InvalidParameter),
    ],
)
def test_refusals_of_the_predecessors_servers_are_typed_and_not_repeated(
    door: Door, code: int, body: object, kind: type[AttrError]
) -> None:
    door.faults.append(status(code, body))
    with AttributionClient(door.url) as client, pytest.raises(AttrError) as refused:
        client.stats()
    assert type(refused.value) is kind
    assert len(door.requests) == 1


@pytest.mark.parametrize("fault", [GARBAGE, HTML])
def test_another_program_on_the_port_is_named_as_such(door: Door, fault: Fault) -> None:
    door.faults.append(fault)
    with AttributionClient(door.url) as client, pytest.raises(RequestError, match="does not answer like this service"):
        client.stats()


def test_health_is_read_whatever_its_status(door: Door) -> None:
    door.faults.append(status(503, {"status": "fail", "issues": ["ledger: disk full"]}, Retry_After="60"))
    with AttributionClient(door.url) as client:
        assert client.health(ready=True).issues == ["ledger: disk full"]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://[::1"])
def test_a_url_that_cannot_be_asked_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidParameter, match="is not an http or https URL"):
        AttributionClient(url)


def test_the_key_is_sent_as_a_bearer_token(door: Door) -> None:
    with AttributionClient(door.url, api_key="secret") as client:
        client.health()
    assert door.requests[0].headers["authorization"] == "Bearer secret"


def test_every_error_code_has_one_class() -> None:
    known = _errors_by_code()
    assert len(known) >= 20
    assert all(issubclass(kind, AttrError) and kind.code == code for code, kind in known.items())
