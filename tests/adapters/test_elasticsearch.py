"""The Elasticsearch sink against a loopback twin: what arrives, what is tried again, what is parked, what stays secret."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from attr_actors.adapters.elasticsearch import ElasticsearchSink
from attr_actors.core.entries import entries_of, entry_key
from attr_actors.core.rendering import render_record
from attr_actors.errors import BadSettings, SinkError
from attr_actors.models import Action, Delivery, Outcome, Recording
from attr_actors.settings import Settings
from tests.answers import attribution, recording
from tests.elasticsearch_twin import ElasticsearchTwin, basic
from tests.ledgers import settings
from tests.loopback import DROP, GARBAGE, HANG, HTML, LOSE, Fault, status


@pytest.fixture
def twin() -> Iterator[ElasticsearchTwin]:
    server = ElasticsearchTwin()
    with server.serving():
        yield server


def chosen(tmp_path: Path, twin: ElasticsearchTwin, **more: object) -> Settings:
    values = {"dataflow_index": "attribution", "elasticsearch_url": twin.url, "sink_timeout_s": 5, "cluster_name": "alpha"}
    return settings(tmp_path, **{**values, **more})


def deliveries(*recordings: Recording) -> tuple[Delivery, ...]:
    entries = [entry for r in recordings for entry in entries_of(r)]
    return tuple(Delivery(delivery_id=n, sink="elasticsearch", attempts=1, entry=entry) for n, entry in enumerate(entries))


@contextlib.asynccontextmanager
async def opened(using: Settings) -> AsyncIterator[ElasticsearchSink]:
    sink = ElasticsearchSink(using)
    try:
        yield sink
    finally:
        await sink.close()


def deliver(using: Settings, *batches: tuple[Delivery, ...]) -> list[tuple[Outcome, ...] | SinkError]:
    async def run() -> list[tuple[Outcome, ...] | SinkError]:
        results: list[tuple[Outcome, ...] | SinkError] = []
        async with opened(using) as sink:
            for batch in batches:
                try:
                    results.append(await sink.deliver(batch))
                except SinkError as exc:
                    results.append(exc)
        return results

    return asyncio.run(run())


def states(result: tuple[Outcome, ...] | SinkError) -> list[str]:
    assert not isinstance(result, SinkError), result
    return [outcome.state for outcome in result]


def test_each_cycle_becomes_one_document_under_its_key(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    batch = deliveries(recording("/a", attribution(), attribution(Action.RESTART)), recording("/b"))
    (result,) = deliver(chosen(tmp_path, twin), batch)
    assert states(result) == ["done"] * 3
    assert twin.documents == {entry_key(d.entry): render_record(d.entry, "alpha") for d in batch}


def test_repeat_overwrites_and_a_late_older_one_does_not(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    old, new = deliveries(recording("/a", at=1e9)), deliveries(recording("/a", attribution(Action.RESTART), at=2e9))
    results = deliver(chosen(tmp_path, twin), old, old, new, old)
    assert [states(r) for r in results] == [["done"]] * 4
    assert [d["s_recommendation_action"] for d in twin.documents.values()] == ["RESTART"]


def test_template_is_installed_once_with_a_type_for_each_prefix(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    deliver(chosen(tmp_path, twin), deliveries(recording()), deliveries(recording()))
    ((name, body),) = twin.templates.items()
    assert name == "attr-actors-attribution"
    assert body["index_patterns"] == ["attribution"]
    kinds = {
        rule["match"]: rule["mapping"]["type"] for entry in body["template"]["mappings"]["dynamic_templates"] for rule in entry.values()
    }
    assert kinds == {"s_*": "keyword", "l_*": "long", "d_*": "double", "ts_*": "date"}
    assert sum(r.path.startswith("/_index_template") for r in twin.requests) == 1


def test_without_the_right_to_install_a_template_records_still_arrive(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    twin.faults.append(status(403, {"error": {"type": "security_exception", "reason": "unauthorized"}, "status": 403}))
    (result,) = deliver(chosen(tmp_path, twin), deliveries(recording()))
    assert states(result) == ["done"]


@pytest.mark.parametrize(
    ("code", "kind", "state"),
    [
        (429, "es_rejected_execution_exception", "retry"),
        (503, "unavailable_shards_exception", "retry"),
        (403, "cluster_block_exception", "retry"),
        (404, "index_not_found_exception", "retry"),
        (400, "document_parsing_exception", "parked"),
        (400, "mapper_parsing_exception", "parked"),
        (400, "strict_dynamic_mapping_exception", "parked"),
        (409, "version_conflict_engine_exception", "done"),
    ],
)
def test_error_of_one_item_concerns_that_item_alone(tmp_path: Path, twin: ElasticsearchTwin, code: int, kind: str, state: str) -> None:
    batch = deliveries(*(recording(f"/{n}") for n in range(3)))
    twin.item_errors[entry_key(batch[1].entry)] = (code, kind)
    (result,) = deliver(chosen(tmp_path, twin), batch)
    assert states(result) == ["done", state, "done"]
    assert not isinstance(result, SinkError)
    assert state == "done" or kind in result[1].reason
    assert len(twin.documents) == 2


@pytest.mark.parametrize("fault", [status(502), status(503), status(504), DROP, LOSE])
def test_short_fault_is_overcome_by_quick_tries_without_a_duplicate(tmp_path: Path, twin: ElasticsearchTwin, fault: Fault) -> None:
    using = chosen(tmp_path, twin)
    deliver(using, deliveries(recording("/warm")))
    twin.faults.extend([fault, fault])
    (result,) = deliver(using, deliveries(recording("/a")))
    assert states(result) == ["done"]
    assert len(twin.documents) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (status(429, {"error": {"type": "circuit_breaking_exception", "reason": "Data too large"}, "status": 429}), "429"),
        (status(503), "503"),
        (status(401, {"error": {"type": "security_exception", "reason": "x"}, "status": 401}), "401"),
        (DROP, "ConnectionError"),
        (GARBAGE, "SerializationError|UnsupportedProductError"),
        (HTML, "UnsupportedProductError|Unsupported|Serialization"),
        (status(200, {"took": 1, "errors": False, "items": []}), "does not list its items"),
        (status(200, ["not", "an", "object"]), "does not list its items"),
    ],
)
def test_fault_of_the_whole_request_is_a_sink_error(tmp_path: Path, twin: ElasticsearchTwin, fault: Fault, said: str) -> None:
    using = chosen(tmp_path, twin)
    batch = deliveries(recording("/a"))

    async def run() -> None:
        async with opened(using) as sink:
            await sink.deliver(batch)
            twin.faults.extend([fault] * 10)
            with pytest.raises(SinkError, match=said):
                await sink.deliver(batch)
            twin.faults.clear()
            assert [o.state for o in await sink.deliver(batch)] == ["done"]

    asyncio.run(run())


def test_silent_server_is_given_up_after_the_timeout(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    twin.faults.extend([HANG] * 3)
    twin.hang_s = 5
    (result,) = deliver(chosen(tmp_path, twin, sink_timeout_s=0.05), deliveries(recording()))
    assert isinstance(result, SinkError)
    assert result.message == f"127.0.0.1:{twin.port}: timed out"


def test_refused_connection_is_a_sink_error(tmp_path: Path) -> None:
    twin = ElasticsearchTwin()
    with twin.serving():
        pass
    url = f"http://writer:p%40ss@127.0.0.1:{twin.port}/?key=secret"
    (result,) = deliver(chosen(tmp_path, twin, elasticsearch_url=url), deliveries(recording()))
    assert isinstance(result, SinkError)
    assert result.message == f"127.0.0.1:{twin.port}: connection refused"


def test_name_that_nobody_knows_is_told_as_such(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    (result,) = deliver(chosen(tmp_path, twin, elasticsearch_url="http://no-such-host.invalid:9200"), deliveries(recording()))
    assert isinstance(result, SinkError)
    assert re.fullmatch(r"no-such-host\.invalid:9200: (name or service not known|temporary failure in name resolution)", result.message)


def test_server_that_is_not_elasticsearch_is_not_written_to(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    twin.standard_headers = {}
    (result,) = deliver(chosen(tmp_path, twin), deliveries(recording()))
    assert isinstance(result, SinkError)
    assert twin.documents == {}


def test_batch_that_is_too_large_is_halved_and_a_single_one_parked(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    batch = deliveries(*(recording(f"/{n}", attribution(root_cause="x" * (3000 if n == 2 else 10))) for n in range(5)))
    twin.body_max = 3500
    (result,) = deliver(chosen(tmp_path, twin), batch)
    assert states(result) == ["done", "done", "parked", "done", "done"]
    assert len(twin.documents) == 4


@pytest.mark.parametrize(
    ("more", "sent", "named"),
    [
        ({"elasticsearch_api_key": "a2V5OnNlY3JldA=="}, "ApiKey a2V5OnNlY3JldA==", "NVRX_ATTRSVC_ELASTICSEARCH_API_KEY"),
        (
            {"elasticsearch_user": "writer", "elasticsearch_password": "hunter2"},
            basic("writer", "hunter2"),
            "NVRX_ATTRSVC_ELASTICSEARCH_USER and NVRX_ATTRSVC_ELASTICSEARCH_PASSWORD",
        ),
    ],
)
def test_credentials_are_sent_and_refused_ones_are_told_by_their_variable_alone(
    tmp_path: Path, twin: ElasticsearchTwin, more: dict[str, object], sent: str, named: str
) -> None:
    twin.authorization = sent
    (result,) = deliver(chosen(tmp_path, twin, **more), deliveries(recording()))
    assert states(result) == ["done"]
    twin.authorization = "something else"
    (refused,) = deliver(chosen(tmp_path, twin, **more), deliveries(recording()))
    assert isinstance(refused, SinkError)
    assert refused.message == f"127.0.0.1:{twin.port}: 401 security_exception; the credentials are refused, see {named}"


def test_password_in_the_address_is_used_and_not_shown(tmp_path: Path, twin: ElasticsearchTwin) -> None:
    url = twin.url.replace("http://", "http://writer:p%40ss@")
    twin.authorization = basic("writer", "p@ss")
    (result,) = deliver(chosen(tmp_path, twin, elasticsearch_url=url), deliveries(recording()))
    assert states(result) == ["done"]
    twin.down = True
    (failed,) = deliver(chosen(tmp_path, twin, elasticsearch_url=url), deliveries(recording()))
    assert isinstance(failed, SinkError)
    assert "p%40ss" not in failed.message
    assert "p@ss" not in failed.message
    twin.down, twin.authorization = False, "something else"
    (refused,) = deliver(chosen(tmp_path, twin, elasticsearch_url=url), deliveries(recording()))
    assert isinstance(refused, SinkError)
    assert refused.message.endswith("see NVRX_ATTRSVC_ELASTICSEARCH_URL")


@pytest.mark.parametrize(
    "more", [{"elasticsearch_url": "elastic.example:9200"}, {"elasticsearch_url": "https://x", "elasticsearch_ca_file": "/no"}]
)
def test_address_or_certificate_that_cannot_be_used_is_named(tmp_path: Path, twin: ElasticsearchTwin, more: dict[str, object]) -> None:
    with pytest.raises(BadSettings, match="NVRX_ATTRSVC_ELASTICSEARCH_"):
        ElasticsearchSink(chosen(tmp_path, twin, **more))
