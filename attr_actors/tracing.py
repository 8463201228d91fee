"""The way of a request through the processes as spans, for an OpenTelemetry collector. Off unless TRACES_URL is set.

Hold in mind: only the door begins a trace. Everywhere else a span is made only inside one, so that what runs by the clock makes
none; a task that outlives the request that happened to start it calls ``leave()`` first. While off, nothing of OpenTelemetry is
imported and every span is one object that does nothing.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Protocol

from attr_actors.errors import BadSettings
from attr_actors.settings import Settings, env_name

if TYPE_CHECKING:
    from attr_actors.adapters.spans import Spans

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float | bool | None]
"""Facts about a span; None is left out. Never a key, a header, a prompt or text of a log."""

Kind = Literal["internal", "client", "server"]
Carrier = dict[str, str]
"""The W3C headers ``traceparent`` and ``tracestate``."""


class Span(Protocol):
    """A span that is open."""

    def set(self, attributes: Attributes) -> None:
        """Add facts."""

    def fail(self, kind: str, message: str = "") -> None:
        """Mark the span as failed. An exception that leaves the span does so by itself."""


class _NoSpan:
    """What there is while traces are off, or outside of one."""

    __slots__ = ()

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set(self, attributes: Attributes) -> None: ...

    def fail(self, kind: str, message: str = "") -> None: ...


_NO_SPAN = _NoSpan()
_spans: Spans | None = None


def check(settings: Settings) -> None:
    """Raise BadSettings where traces are asked for and the packages that send them are not installed."""
    if settings.traces_url:
        _spans_class()


def start(settings: Settings, process: str) -> None:
    """Send this process's spans from now on, if the settings say so; ``process`` is its name in them. Never raises.

    Where the packages are missing on one node only, that is logged: the service is worth more than its traces.
    """
    global _spans
    if not settings.traces_url or _spans is not None:
        return
    try:
        _spans = _spans_class()(settings, process)
    except BadSettings as exc:
        log.error("no traces from '%s': %s", process, exc.message)
        return
    atexit.register(stop)


def stop() -> None:
    """Send what is left and make no more spans. Blocks for some seconds at most."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        spans.stop()


def is_on() -> bool:
    """Tell whether this process sends spans."""
    return _spans is not None


def request(name: str, headers: Carrier, attributes: Attributes) -> AbstractContextManager[Span]:
    """Open the span of a client's request, in the trace that its headers name or a new one."""
    return _NO_SPAN if _spans is None else _spans.open(name, "server", attributes, headers)


def span(name: str, kind: Kind = "internal", attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """Open a span inside the present one; outside of a trace there is none."""
    return _NO_SPAN if _spans is None or not _spans.is_inside() else _spans.open(name, kind, attributes or {})


def calling(actor: str, method: str) -> AbstractContextManager[Span]:
    """Open the caller's span of a call, inside the present one."""
    return _NO_SPAN if _spans is None else span(_call_name(actor, method), "client", {"attr.actor": actor})


def called(actor: str, method: str, carrier: Carrier) -> AbstractContextManager[Span]:
    """Open the actor's span of a call; ``carrier`` is the caller's."""
    return _NO_SPAN if _spans is None else _spans.open(_call_name(actor, method), "server", {"attr.actor": actor}, carrier)


def carrier() -> Carrier | None:
    """Return what another process needs to go on with the present span; None outside of a trace."""
    return None if _spans is None or not _spans.is_inside() else _spans.carrier()


def leave() -> None:
    """Let the present task go on outside of any trace."""
    if _spans is not None:
        _spans.leave()


def _call_name(actor: str, method: str) -> str:
    """Return a name that all actors of a kind share: backends group spans by it."""
    return f"{actor.rstrip('0123456789').rstrip('-')}.{method}"


def _spans_class() -> type[Spans]:
    try:
        from attr_actors.adapters.spans import Spans
    except ImportError as exc:
        raise BadSettings(f"{env_name('traces_url')}: needs pip install 'attr-actors[tracing]' ({exc.msg})") from None
    return Spans
