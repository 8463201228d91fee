"""The webhook against a receiver on loopback, and sinks of one's own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from attr_actors.adapters import sink as sinks
from attr_actors.adapters.webhook import WebhookSink
from attr_actors.core.entries import entries_of, entry_key
from attr_actors.core.rendering import render_record
from attr_actors.errors import BadSettings, SinkError
from attr_actors.models import Delivery, Outcome
from attr_actors.settings import Settings
from tests.answers import recording
from tests.ledgers import settings
from tests.loopback import DROP, LOSE, Fault, Loopback, Reply, Request, status


class Receiver(Loopback):
    def answer(self, request: Request) -> Reply:
        return Reply(204, b"")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    with server.serving():
        yield server


def deliveries(count: int) -> tuple[Delivery, ...]:
    entries = (entries_of(recording(f"/{n}"))[0] for n in range(count))
    return tuple(Delivery(delivery_id=n, sink="webhook", attempts=1, entry=entry) for n, entry in enumerate(entries))


def post(chosen: Settings, batch: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
    async def run() -> tuple[Outcome, ...]:
        sink = WebhookSink(chosen)
        try:
            return await sink.deliver(batch)
        finally:
            await sink.close()

    return asyncio.run(run())


def test_each_record_is_posted_with_its_key(tmp_path: Path, receiver: Receiver) -> None:
    batch = deliveries(5)
    outcomes = post(settings(tmp_path, export_url=receiver.url + "/in"), batch)
    assert [o.state for o in outcomes] == ["done"] * 5
    got = {r.headers["idempotency-key"]: json.loads(r.body) for r in receiver.requests}
    assert got == {entry_key(d.entry): render_record(d.entry, "") for d in batch}
    assert all("x-attr-signature" not in r.headers for r in receiver.requests)


def test_signature_proves_time_and_body(tmp_path: Path, receiver: Receiver) -> None:
    post(settings(tmp_path, export_url=receiver.url, export_secret="shared"), deliveries(1))
    (request,) = receiver.requests
    signed = request.headers["x-attr-timestamp"].encode() + b"." + request.body
    assert request.headers["x-attr-signature"] == "sha256=" + hmac.new(b"shared", signed, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("fault", [status(408), status(425), status(429), status(500), status(503), DROP, LOSE])
def test_fault_that_may_pass_is_tried_again(tmp_path: Path, receiver: Receiver, fault: Fault) -> None:
    receiver.faults.append(fault)
    with pytest.raises(SinkError):
        post(settings(tmp_path, export_url=receiver.url), deliveries(1))


@pytest.mark.parametrize("code", [301, 400, 401, 404, 410, 422])
def test_refusal_is_parked_with_its_status(tmp_path: Path, receiver: Receiver, code: int) -> None:
    receiver.faults.append(status(code))
    (outcome,) = post(settings(tmp_path, export_url=receiver.url), deliveries(1))
    assert (outcome.state, outcome.reason) == ("parked", f"127.0.0.1:{receiver.port}: {code}")


def test_fault_of_one_concerns_that_one_alone(tmp_path: Path, receiver: Receiver) -> None:
    receiver.faults.append(status(503))
    outcomes = post(settings(tmp_path, export_url=receiver.url), deliveries(4))
    assert sorted(o.state for o in outcomes) == ["done", "done", "done", "retry"]


def test_receiver_says_when_to_come_back(tmp_path: Path, receiver: Receiver) -> None:
    receiver.faults.append(status(429, None, Retry_After="12"))
    with pytest.raises(SinkError) as caught:
        post(settings(tmp_path, export_url=receiver.url), deliveries(1))
    assert caught.value.retry_after_s == 12


def test_password_in_the_address_is_used_and_stays_out_of_errors(tmp_path: Path, receiver: Receiver) -> None:
    url = receiver.url.replace("://", "://me:hunter2@")
    post(settings(tmp_path, export_url=url), deliveries(1))
    assert receiver.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:hunter2").decode()
    receiver.down = True
    with pytest.raises(SinkError) as caught:
        post(settings(tmp_path, export_url=url, export_secret="shared"), deliveries(1))
    assert not any(secret in caught.value.message for secret in ("hunter2", "shared"))


def test_address_that_is_not_http_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="EXPORT_URL"):
        WebhookSink(settings(tmp_path, export_url="ftp://x"))


def test_own_sink_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EntryPoint("pager", "attr_actors.adapters.webhook:WebhookSink", sinks.GROUP)
    monkeypatch.setattr(sinks, "entry_points", lambda **asked: EntryPoints([own]).select(**asked))
    chosen = settings(tmp_path, export_sinks=" pager, other ", export_url="http://127.0.0.1:1/")
    assert chosen.sink_names == ("webhook", "pager", "other")
    assert isinstance(sinks.open_sink("pager", chosen), WebhookSink)
    with pytest.raises(BadSettings, match="'other'"):
        sinks.open_sink("other", chosen)


def test_built_in_sinks_are_named_by_the_settings_that_turn_them_on(tmp_path: Path) -> None:
    chosen = settings(tmp_path, dataflow_index="i", slack_bot_token="t", slack_channel="c", export_url="http://127.0.0.1:1/")
    assert chosen.sink_names == ("elasticsearch", "slack", "webhook")
    for name in chosen.sink_names:
        assert sinks.open_sink(name, chosen).name == name
    assert settings(tmp_path, slack_bot_token="t").sink_names == ()
