"""The running service in the eyes of a trace collector and of what scrapes Ray: whole traces, and figures on Ray's own port."""

from __future__ import annotations

import glob
import secrets
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import OOM_LOG
from tests.e2e.conftest import Service, start_service, stop_service
from tests.loopback import HANG
from tests.model_server import answer, serving
from tests.trace_collector import Seen, TraceCollector

CLIENT = "b7ad6b7169203331"
"""The span of whoever asks."""

MODEL_KEY, API_KEY = "nvapi-m0del-key", "attr-cl1ent-key"
GOOD = {"citations": [{"line": 9, "quote": "CUDA out of memory. Tried to allocate 2.00 GiB"}], "category": "cuda_oom"}


class Traced(NamedTuple):
    service: Service
    collector: TraceCollector
    place: Path

    def get(self, path: str, trace_id: str, status: int = 200) -> None:
        """GET /logs as part of a trace."""
        headers = {"traceparent": f"00-{trace_id}-{CLIENT}-01", "Authorization": f"Bearer {API_KEY}", "X-Request-ID": "my-request"}
        assert self.service.client.get("/logs", params={"log_path": path}, headers=headers).status_code == status

    def ways(self, trace_id: str) -> dict[str, Seen]:
        """Return the spans of a trace by the way from the client's span to each, as ``process span > process span > ...``.

        Of a process's name the first word is enough.
        """
        by_id = {span.span_id: span for span in self.collector.of_trace(trace_id)}

        def way(span: Seen) -> str:
            above = "" if span.parent_id == CLIENT else way(by_id[span.parent_id]) + " > " if span.parent_id in by_id else "? > "
            return f"{above}{span.process.partition('-')[0]} {span.name}"

        return {way(span): span for span in by_id.values()}


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    """A service with a collector and a model."""
    place = Path(tempfile.mkdtemp(prefix="traced-"))  # Ray's sockets lie below it, and their names may not be long.
    collector = TraceCollector()
    with collector.serving(), serving(lambda request, number: answer(**GOOD)) as model:
        service = start_service(
            place,
            NVRX_ATTRSVC_RAY_METRICS="1",
            NVRX_ATTRSVC_TRACES_URL=collector.traces_url,
            NVRX_ATTRSVC_LLM_BASE_URL=model.url,
            NVRX_ATTRSVC_LLM_MODEL="a-model",
            LLM_API_KEY=MODEL_KEY,
            RAY_TMPDIR=str(place),
            RAY_metrics_report_interval_ms="1000",
        )
        yield Traced(service, collector, place)
        assert stop_service(service) == 0
    shutil.rmtree(place, ignore_errors=True)


def until(is_true: Callable[[], bool], what: str, patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_one_trace_goes_from_the_client_through_door_and_analyzer_to_ledger_and_model(traced: Traced) -> None:
    path, trace_id = traced.service.write("cold.log", OOM_LOG), secrets.token_hex(16)
    traced.get(path, trace_id)
    door = "ingress GET /logs"
    analyzer = f"{door} > ingress analyzer.analyze > analyzer analyzer.analyze"
    chat = f"{analyzer} > analyzer chat a-model"
    methods = ("lookup", "begin_attempt", "record", "save_reply")
    told = {f"{analyzer} > analyzer ledger.{method} > ledger ledger.{method}" for method in methods}
    gate = f"{analyzer} > analyzer model-gate.release > model model-gate.release"
    wanted = {door, f"{door} > ingress tracker.find > tracker tracker.find", f"{analyzer} > analyzer scan", chat, gate, *told}
    until(lambda: wanted <= set(traced.ways(trace_id)), "the trace is not complete")

    ways = traced.ways(trace_id)
    assert not [way for way in ways if way.startswith("?")]
    assert [ways[way].kind for way in (door, f"{door} > ingress analyzer.analyze", analyzer, chat)] == [
        "server",
        "client",
        "server",
        "client",
    ]
    facts = {"attr.route": "result", "http.response.status_code": 200, "attr.log_path": path, "attr.request_id": "my-request"}
    assert ways[door].attributes == facts
    assert ways[f"{analyzer} > analyzer scan"].attributes["attr.log_bytes"] == len(OOM_LOG)
    tokens = {name: ways[chat].attributes[f"gen_ai.usage.{name}_tokens"] for name in ("input", "output")}
    assert tokens == {"input": 900, "output": 100}
    sent = b"".join(request.body for request in traced.collector.requests)
    assert not any(secret.encode() in sent for secret in (MODEL_KEY, API_KEY, "CUDA out of memory"))


def test_a_kept_reply_is_one_span_and_an_error_marks_the_calls_that_it_went_through(traced: Traced) -> None:
    path, missing = traced.service.write("kept.log", OOM_LOG), secrets.token_hex(16)

    def hits() -> int:
        return int(traced.service.client.get("/stats").json()["cache"].get("replica_hits", 0))

    def kept() -> str:
        """Return the trace of a reply from memory; a reply that waits for the model is not kept."""
        before, trace_id = hits(), secrets.token_hex(16)
        traced.get(path, trace_id)
        return trace_id if hits() > before else kept()

    kept_id = kept()
    traced.get(str(traced.service.root / "missing.log"), missing, status=404)
    until(lambda: bool(traced.ways(kept_id)) and "ingress GET /logs" in traced.ways(missing), "the spans do not come")
    assert [way for way in traced.ways(kept_id) if "limiter" not in way] == ["ingress GET /logs"]
    until(lambda: sum(span.failed for span in traced.collector.of_trace(missing)) >= 2, "the errors do not come")
    failed = {(span.name, span.kind) for span in traced.collector.of_trace(missing) if span.failed}
    assert failed == {("analyzer.analyze", "client"), ("analyzer.analyze", "server")}
    assert all("missing.log" in span.message for span in traced.collector.of_trace(missing) if span.failed)


def test_what_runs_by_the_clock_makes_no_trace(traced: Traced) -> None:
    traced.service.post(traced.service.write("job.log", OOM_LOG), user="ann", job_id="7", analysis_intent="terminal")
    until(lambda: any(s.name == "POST /logs" and s.attributes.get("attr.job_id") == "7" for s in traced.collector.spans), "no span")
    spans = list(traced.collector.spans)
    assert {(span.kind, span.name.partition(" ")[0]) for span in spans if not span.parent_id} <= {("server", "GET"), ("server", "POST")}
    asked = {span.trace_id for span in spans if span.name in ("GET /stats", "GET /metrics")}
    assert {span.trace_id for span in spans if span.name == "meter.report"} <= asked


def test_a_collector_that_is_away_or_hangs_costs_no_request_and_a_line_of_log_per_process(traced: Traced) -> None:
    took_s = []
    traced.collector.down, traced.collector.hang_s = True, 5.0
    for number in range(30):
        if number == 15:
            traced.collector.down = False
            traced.collector.faults.extend([HANG] * 100)
        path, started = traced.service.write(f"down-{number}.log", OOM_LOG), time.monotonic()
        traced.get(path, secrets.token_hex(16))
        took_s.append(time.monotonic() - started)
        time.sleep(0.2)  # So that several batches fail.
    assert sorted(took_s)[15] < 0.5
    traced.collector.faults.clear()
    trace_id = secrets.token_hex(16)

    def arrives() -> bool:
        traced.get(traced.service.write("again.log", OOM_LOG), trace_id)
        return bool(traced.collector.of_trace(trace_id))

    until(arrives, "the spans do not come again")
    logs = "".join(path.read_text(errors="replace") for path in traced.place.glob("ray/session_latest/logs/**/*") if path.is_file())
    said = logs.count("the collector of traces does not take spans")
    assert 1 <= said <= 20  # Of nine processes that send spans.
    assert "Failed to export" not in logs


def test_rays_own_metrics_port_shows_the_figures_of_the_service(traced: Traced) -> None:
    traced.service.get(traced.service.write("figures.log", OOM_LOG))
    shown = traced.service.client.get("/metrics").text
    [port] = [Path(name).read_text() for name in glob.glob(f"{traced.place}/ray/session_latest/metrics_export_port_*")]

    def figures() -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        samples = [sample for family in families for sample in family.samples if sample.name.startswith("ray_attr_")]
        return {(s.name, s.labels.get("action") or f"{s.labels.get('route')} {s.labels.get('status')}"): s.value for s in samples}

    def value(name: str) -> float:
        return next(float(line.split()[-1]) for line in shown.splitlines() if line.startswith(name))

    verdicts, requests = (
        value('attr_verdicts_total{category="cuda_oom",action="STOP"}'),
        value('attr_http_requests_total{route="result",st'),
    )
    until(lambda: figures().get(("ray_attr_verdicts_total", "STOP")) == verdicts, "the verdicts do not come")
    assert figures()["ray_attr_http_requests_total", "result 200"] == requests
    for _ in range(10):  # It must not come and go with Ray's reports.
        time.sleep(0.3)
        assert figures()["ray_attr_health", "None None"] == 0
