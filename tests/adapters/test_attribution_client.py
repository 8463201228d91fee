"""The monitor's HTTP client against a server that answers like the service."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from attr_actors.adapters.attribution_client import TRIES, AttributionClient
from attr_actors.errors import BadReply, NotFound, RequestError, Unavailable
from tests.attribution_twin import AttributionTwin


@pytest.fixture
def twin() -> Iterator[AttributionTwin]:
    server = AttributionTwin()
    yield server
    server.close()


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def client(twin: AttributionTwin, naps: list[float]) -> Iterator[AttributionClient]:
    with AttributionClient(twin.url, 5, api_key="k-1", sleep=naps.append) as made:
        yield made


def test_a_submission_carries_user_job_intent_and_key(client: AttributionClient, twin: AttributionTwin) -> None:
    assert client.submit("/logs/a.out", "ada", "12_3", "terminal")["submitted"] is True
    assert twin.posts == [{"log_path": "/logs/a.out", "user": "ada", "job_id": "12_3", "analysis_intent": "terminal"}]
    assert twin.authorizations == {"Bearer k-1"}


@pytest.mark.parametrize(
    ("status", "headers", "nap"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {}, 10.0),
        (503, {"Retry-After": "2"}, 2.0),
        (500, {}, 5.0),
        (429, {"Retry-After": "86400"}, 120.0),
    ],
)
def test_a_busy_service_is_asked_again_when_it_says_so(
    client: AttributionClient, twin: AttributionTwin, naps: list[float], status: int, headers: dict[str, str], nap: float
) -> None:
    twin.next_replies.append((status, headers, {"error_code": "x", "message": "busy", "details": None}))
    assert client.result("/logs/a.out")["recommendation"]["action"] == "STOP"
    assert naps == [nap]


def test_a_service_that_stays_busy_is_unavailable_after_three_tries(
    client: AttributionClient, twin: AttributionTwin, naps: list[float]
) -> None:
    twin.next_replies.extend([(503, {}, {"message": "starting"})] * TRIES)
    with pytest.raises(Unavailable, match="503: starting"):
        client.result("/logs/a.out")
    assert len(naps) == TRIES - 1


def test_a_service_that_is_not_there_is_unavailable(naps: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with AttributionClient(url, 1, sleep=naps.append) as client, pytest.raises(Unavailable, match="does not answer"):
            client.result("/logs/a.out")
    assert naps == [5.0, 5.0]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((404, {}, {"message": "log file not found"}), NotFound),
        ((403, {}, {"message": "outside the allowed root"}), RequestError),
        ((422, {}, b"not json"), RequestError),
        ((401, {}, ["odd"]), RequestError),
        ((200, {}, b"<html>"), BadReply),
        ((200, {}, [1]), BadReply),
        ((200, {}, {"result": {}}), BadReply),
        ((200, {}, {"result": None}), BadReply),
    ],
)
def test_a_refusal_or_nonsense_is_not_retried(
    client: AttributionClient, twin: AttributionTwin, naps: list[float], reply: tuple[int, dict[str, str], Any], error: type[Exception]
) -> None:
    twin.next_replies.append(reply)
    with pytest.raises(error):
        client.result("/logs/a.out")
    assert naps == []
