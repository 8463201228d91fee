"""Spans by the OpenTelemetry SDK, sent in batches by OTLP over HTTP. Only ``attr_actors.tracing`` imports it, and only when on.

Hold in mind: a collector that is slow, away or full costs spans and nothing else. A thread sends them; the queue is bounded and
drops the oldest; an outage is one line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from attr_actors import __version__
from attr_actors.errors import AttrError
from attr_actors.settings import Settings
from attr_actors.tracing import Attributes, Carrier, Kind

log = logging.getLogger(__name__)

QUEUE_MAX, BATCH_MAX = 2048, 512
"""Spans that wait in a process, about 3 KB each; above it the oldest are dropped."""
EVERY_S = 1.0
"""So many seconds of spans are lost with a process that is killed."""
SEND_S = 3.0
"""Longest wait for the collector, per batch; a process that ends waits for two of them at most."""
TEXT_MAX = 4096
"""Longest text in a span, characters: as long as paths may be."""

KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}


class Exporter(SpanExporter):
    """Sends batches, and tells in the log when the collector goes away and when it is back."""

    def __init__(self, url: str) -> None:
        self._sender = OTLPSpanExporter(endpoint=url, timeout=SEND_S)
        self._failing = False
        self._ending = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; a failed one is lost."""
        if self._failing and self._ending:
            return SpanExportResult.FAILURE
        sent = self._sender.export(spans)
        self._note(sent is not SpanExportResult.SUCCESS)
        return sent

    def end(self) -> None:
        """Waste no time on a collector that does not answer: the process ends."""
        self._ending = True

    def shutdown(self) -> None:
        """Close the connection."""
        self._sender.shutdown()  # type: ignore[no-untyped-call]

    def _note(self, failing: bool) -> None:
        if failing and not self._failing:
            log.warning("the collector of traces does not take spans; they are dropped until it does")
        if self._failing and not failing:
            log.info("the collector of traces takes spans again")
        self._failing = failing


def _sendable(text: str) -> str:
    """Return text in UTF-8: a name of a file need not be, and one span that is not costs its whole batch."""
    return text.encode(errors="replace").decode()


class OpenSpan:
    """A span of the SDK in the words of ``tracing.Span``."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """Add facts."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, _sendable(value) if isinstance(value, str) else value)

    def fail(self, kind: str, message: str = "") -> None:
        """Mark the span as failed."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR, _sendable(message))


class Spans:
    """Makes the spans of one process."""

    def __init__(self, settings: Settings, process: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # It has a line for each batch that fails; ours is enough.
        about = {"service.name": "attr-actors", "service.version": __version__, "service.instance.id": process}
        if settings.cluster_name:
            about["attr.cluster"] = settings.cluster_name
        self._exporter = Exporter(settings.traces_url)
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.traces_sample_ratio),
            resource=Resource.create(about),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=TEXT_MAX, max_span_attribute_length=TEXT_MAX),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter, max_queue_size=QUEUE_MAX, schedule_delay_millis=EVERY_S * 1000, max_export_batch_size=BATCH_MAX
            )
        )
        self._tracer = self._provider.get_tracer("attr_actors", __version__)
        self._wire = TraceContextTextMapPropagator()

    def is_inside(self) -> bool:
        """Tell whether the present code runs inside a trace that is recorded, even when the span around it has ended."""
        present = trace.get_current_span().get_span_context()
        return present.is_valid and present.trace_flags.sampled

    @contextmanager
    def open(self, name: str, kind: Kind, attributes: Attributes, carrier: Carrier | None = None) -> Iterator[OpenSpan]:
        """Open a span inside the present one, or inside the one that a carrier names; its absence begins a trace."""
        parent = None if carrier is None else self._wire.extract(carrier)
        with self._tracer.start_as_current_span(name, parent, KINDS[kind], record_exception=False, set_status_on_exception=False) as made:
            opened = OpenSpan(made)
            opened.set(attributes)
            try:
                yield opened
            except BaseException as exc:
                # What is no error of ours may hold anything in its text.
                opened.fail(*((exc.code, exc.message) if isinstance(exc, AttrError) else (type(exc).__name__,)))
                raise

    def carrier(self) -> Carrier:
        """Return the present span for another process."""
        headers: Carrier = {}
        self._wire.inject(headers)
        return headers

    def leave(self) -> None:
        """Let the present task go on outside of any trace."""
        context.attach(context.Context())

    def stop(self) -> None:
        """Send what is left. A collector that is away or slow holds this up for two sends at most."""
        self._exporter.end()
        self._provider.shutdown()
