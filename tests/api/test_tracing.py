"""The door and the actors behind it as spans, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attr_actors.core.access import KeyRow, hash_token, render_keys
from attr_actors.errors import Unavailable
from attr_actors.settings import Settings
from tests.api.conftest import Api
from tests.trace_collector import Seen, TraceCollector, sending

Ask = Callable[..., dict[str, Seen]]
KEY = "cl1ent-key"


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()
    with collector.serving():
        yield collector


@pytest.fixture
def traced(open_api: Callable[..., Api], collector: TraceCollector, tmp_path: Path) -> Api:
    """An API with traces and a key."""
    (tmp_path / "keys.json").write_text(render_keys([KeyRow(name="ann", sha256=hash_token(KEY), scopes=frozenset({"read", "submit"}))]))
    return open_api(traces_url=collector.traces_url, api_keys_file=str(tmp_path / "keys.json"))


@pytest.fixture
def ask(traced: Api, collector: TraceCollector) -> Ask:
    """Make a request and return the spans of its trace by name."""

    def send(method: str, url: str, status: int = 200, key: str = KEY, **more: object) -> dict[str, Seen]:
        trace_id = f"{len(collector.spans) + 1:032x}"
        headers = {"traceparent": f"00-{trace_id}-{1:016x}-01", "Authorization": f"Bearer {key}", "X-Request-ID": "my-request"}
        with sending(Settings.load(allowed_root=str(traced.root), traces_url=collector.traces_url)):
            reply = traced.client.request(method, url, headers=headers, **more)  # type: ignore[arg-type]
        assert reply.status_code == status, reply.text
        assert key.encode() not in b"".join(request.body for request in collector.requests)
        return {span.name: span for span in collector.of_trace(trace_id)}

    return send


def test_the_scan_of_a_cold_log_lies_inside_the_request(traced: Api, ask: Ask) -> None:
    path = traced.write("a.log")
    spans = ask("GET", "/logs", params={"log_path": path})
    facts = {"attr.route": "result", "http.response.status_code": 200, "attr.request_id": "my-request", "attr.log_path": path}
    assert spans["GET /logs"].attributes == facts
    assert (spans["GET /logs"].parent_id, spans["scan"].parent_id) == (f"{1:016x}", spans["GET /logs"].span_id)


def test_a_kept_reply_and_a_submission_tell_their_path_and_job(traced: Api, ask: Ask) -> None:
    path = traced.write("a b.log")
    ask("GET", "/logs", params={"log_path": path})
    kept = ask("GET", "/logs", params={"log_path": path})
    assert list(kept) == ["GET /logs"]
    assert (kept["GET /logs"].attributes["attr.log_path"], kept["GET /logs"].attributes["attr.request_id"]) == (path, "my-request")
    submitted = ask("POST", "/logs", json={"log_path": path, "job_id": "7"})["POST /logs"].attributes
    assert (submitted["attr.log_path"], submitted["attr.job_id"]) == (path, "7")


def test_only_a_fault_of_the_service_marks_the_request_as_failed(traced: Api, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for status, key, url in ((401, "wrong", "/logs"), (404, KEY, "/nothing"), (422, KEY, "/logs")):
        [span] = ask("GET", url, status, key).values()
        assert (span.name, span.failed) == ("GET /logs" if url == "/logs" else "other", False)

    def hang(raw: str, root: str) -> None:
        raise Unavailable("the mount hangs")

    monkeypatch.setattr("serve_app.service.admit", hang)
    [span] = ask("GET", "/logs", 503, params={"log_path": traced.write("a.log")}).values()
    assert (span.failed, span.attributes["error.type"]) == (True, "503")


def test_what_the_first_request_has_started_is_in_no_trace(traced: Api, ask: Ask, collector: TraceCollector) -> None:
    ask("GET", "/healthz")
    with sending(Settings.load(allowed_root=str(traced.root), traces_url=collector.traces_url)):
        traced.client.portal.call(traced.door.tick)  # type: ignore[union-attr]
    assert [span.name for span in collector.spans] == ["GET /healthz"]
