"""A collector of traces on loopback: takes OTLP over HTTP and remembers the spans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from attr_actors import tracing
from attr_actors.settings import Settings
from tests.loopback import Loopback, Reply, Request


class Seen(NamedTuple):
    """A span as it arrived; ids are hexadecimal, and ``process`` is who sent it."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    process: str
    failed: bool
    message: str
    attributes: dict[str, Any]


class TraceCollector(Loopback):
    """Takes every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Seen] = []

    @property
    def traces_url(self) -> str:
        return f"{self.url}/v1/traces"

    def answer(self, request: Request) -> Reply:
        assert (request.method, request.path, request.headers["content-type"]) == ("POST", "/v1/traces", "application/x-protobuf")
        for sent in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            process = plain(sent.resource.attributes)["service.instance.id"]
            self.spans += [seen(span, process) for scope in sent.scope_spans for span in scope.spans]
        return Reply(200, b"", content_type="application/x-protobuf")

    def of_trace(self, trace_id: str) -> list[Seen]:
        """Return the spans of one trace that have arrived so far."""
        return [span for span in list(self.spans) if span.trace_id == trace_id]


def seen(span: Span, process: str) -> Seen:
    return Seen(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        process,
        span.status.code == Status.STATUS_CODE_ERROR,
        span.status.message,
        plain(span.attributes),
    )


def plain(attributes: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in found}


@contextmanager
def sending(settings: Settings) -> Iterator[None]:
    """Have this process send its spans; when the block ends, the collector has all of them."""
    tracing.start(settings, "test-process")
    try:
        yield
    finally:
        tracing.stop()
