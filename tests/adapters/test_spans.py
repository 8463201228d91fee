"""Spans: whole traces over tasks and processes, nothing outside of them, nothing while off, and no harm from the collector."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attr_actors import tracing
from attr_actors.actors.single_flight import SingleFlight
from attr_actors.errors import BadSettings, NotFound
from attr_actors.settings import Settings
from tests.loopback import HANG
from tests.trace_collector import Seen, TraceCollector, sending

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = ({"traceparent": f"00-{TRACE}-{PARENT}-{flag}"} for flag in ("01", "00"))

Configure = Callable[..., Settings]


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()
    with collector.serving():
        yield collector


@pytest.fixture
def configure(collector: TraceCollector, tmp_path: Path) -> Configure:
    return lambda **more: Settings.load(allowed_root=str(tmp_path), **({"traces_url": collector.traces_url} | more))


def by_name(collector: TraceCollector) -> dict[str, Seen]:
    return {span.name: span for span in collector.spans}


def test_a_request_goes_on_with_the_clients_trace_and_a_span_inside_is_its_child(collector: TraceCollector, configure: Configure) -> None:
    with sending(configure()), tracing.request("GET /logs", SAMPLED, {"attr.route": "result"}) as door:
        door.set({"attr.log_path": "/logs/a", "attr.job_id": None, "http.response.status_code": 200})
        with tracing.span("scan", attributes={"attr.log_bytes": 7}):
            pass
    spans = by_name(collector)
    assert (spans["GET /logs"].trace_id, spans["GET /logs"].parent_id, spans["GET /logs"].kind) == (TRACE, PARENT, "server")
    assert spans["GET /logs"].attributes == {"attr.route": "result", "attr.log_path": "/logs/a", "http.response.status_code": 200}
    assert (spans["scan"].trace_id, spans["scan"].parent_id) == (TRACE, spans["GET /logs"].span_id)
    assert {span.process for span in collector.spans} == {"test-process"}


def test_a_call_carries_the_callers_span_into_the_actor(collector: TraceCollector, configure: Configure) -> None:
    with sending(configure()):
        with tracing.request("GET /logs", SAMPLED, {}), tracing.calling("analyzer-12", "analyze"):
            carrier = tracing.carrier()
        assert carrier is not None
        with tracing.called("ledger", "lookup", carrier):  # As another process would.
            pass
    spans = by_name(collector)
    assert (spans["analyzer.analyze"].kind, spans["analyzer.analyze"].attributes) == ("client", {"attr.actor": "analyzer-12"})
    assert (spans["ledger.lookup"].kind, spans["ledger.lookup"].parent_id) == ("server", spans["analyzer.analyze"].span_id)


def test_outside_of_a_trace_and_in_one_that_is_not_sampled_nothing_is_made(collector: TraceCollector, configure: Configure) -> None:
    with sending(configure(traces_sample_ratio=0)):
        with tracing.span("scan"), tracing.calling("ledger", "lookup"):
            assert tracing.carrier() is None
        for headers in (NOT_SAMPLED, {}, {"traceparent": "nonsense"}):
            with tracing.request("GET /logs", headers, {}), tracing.span("scan"):
                assert tracing.carrier() is None
        with tracing.request("GET /asked", SAMPLED, {}):  # A client that traces goes before the ratio.
            tracing.leave()
            assert tracing.carrier() is None
    assert [span.name for span in collector.spans] == ["GET /asked"]


def test_a_trace_goes_on_in_a_flight_after_its_first_waiter_has_gone(collector: TraceCollector, configure: Configure) -> None:
    async def main() -> None:
        flights, left = SingleFlight[None](8), asyncio.Event()

        async def work() -> None:
            await left.wait()
            with tracing.span("scan"):
                pass

        with tracing.request("GET /logs", SAMPLED, {}), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await flights.join("a", work)
        left.set()
        await flights.join("a", work)

    with sending(configure()):
        asyncio.run(main())
    spans = by_name(collector)
    assert (spans["scan"].trace_id, spans["scan"].parent_id) == (TRACE, spans["GET /logs"].span_id)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (NotFound("there is no '/logs/a'"), "not_found", "there is no '/logs/a'"),
        (ValueError("a line of a log"), "ValueError", ""),
        (asyncio.CancelledError(), "CancelledError", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_marks_its_span_and_tells_only_what_is_safe(
    error: BaseException, kind: str, message: str, collector: TraceCollector, configure: Configure
) -> None:
    with sending(configure()), pytest.raises(type(error)), tracing.request("GET /logs", SAMPLED, {}), tracing.span("scan"):
        raise error
    scan = by_name(collector)["scan"]
    assert (scan.failed, scan.attributes, scan.message) == (True, {"error.type": kind}, message)
    assert b"a line of a log" not in b"".join(request.body for request in collector.requests)


def test_a_name_that_is_not_utf_8_is_sent_with_marks(collector: TraceCollector, configure: Configure) -> None:
    with sending(configure()), tracing.request("GET /logs", SAMPLED, {"attr.log_path": b"/logs/\xff".decode(errors="surrogateescape")}):
        pass
    assert by_name(collector)["GET /logs"].attributes == {"attr.log_path": "/logs/?"}


def test_a_collector_that_is_away_costs_no_time_one_line_of_log_and_bounded_memory(
    collector: TraceCollector, configure: Configure, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attr_actors.adapters.spans.SEND_S", 0.1)
    monkeypatch.setattr("attr_actors.adapters.spans.EVERY_S", 0.01)
    monkeypatch.setattr("attr_actors.adapters.spans.QUEUE_MAX", 600)
    collector.down, collector.hang_s = True, 1.0
    caplog.set_level(logging.INFO)

    def make(count: int) -> None:
        for _ in range(count):
            with tracing.request("GET /logs", SAMPLED, {}):
                pass

    with sending(configure()):
        started = time.monotonic()
        for _ in range(5):
            make(400)
            time.sleep(0.05)
        assert time.monotonic() - started < 2
        collector.down = False
        collector.faults.append(HANG)
        deadline = time.monotonic() + 20
        while not collector.spans:
            assert time.monotonic() < deadline
            make(1)
            time.sleep(0.01)
        collector.down = True
        make(600)
        time.sleep(0.3)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert [record.levelname for record in caplog.records if "the collector of traces" in record.message] == ["WARNING", "INFO", "WARNING"]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(collector.spans) <= 600


def test_while_off_there_is_one_span_that_does_nothing_and_opentelemetry_is_not_loaded(tmp_path: Path) -> None:
    code = f"""
import sys
from attr_actors import tracing
from attr_actors.settings import Settings
import attr_actors.actors.analyzer, attr_actors.actors.conversation
tracing.check(Settings.load(allowed_root={str(tmp_path)!r})); tracing.start(Settings.load(allowed_root={str(tmp_path)!r}), "p")
spans = [tracing.request("a", {{}}, {{}}), tracing.span("b"), tracing.calling("c", "d"), tracing.called("e", "f", {{}})]
print(len(set(map(id, spans))), tracing.is_on(), tracing.carrier(), [m for m in sys.modules if m.startswith("opentelemetry")])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "1 False None []"


def test_traces_without_the_packages_are_refused_at_the_start_and_only_logged_in_an_actor(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "attr_actors.adapters.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BadSettings, match=r"NVRX_ATTRSVC_TRACES_URL: needs pip install 'attr-actors\[tracing\]'"):
        tracing.check(configure())
    tracing.start(configure(), "ledger")
    assert not tracing.is_on()
    assert "no traces from 'ledger'" in caplog.text
    tracing.check(configure(traces_url=""))


def test_an_url_that_is_none_and_a_ratio_beyond_one_are_refused(configure: Configure) -> None:
    with pytest.raises(BadSettings, match="NVRX_ATTRSVC_TRACES_URL"):
        configure(traces_url="collector:4318")
    with pytest.raises(BadSettings, match="NVRX_ATTRSVC_TRACES_SAMPLE_RATIO"):
        configure(traces_sample_ratio=1.5)
