"""Counters by dotted name -> the text that Prometheus scrapes.

Hold in mind: names and labels are a contract with dashboards and alert rules (``deploy/prometheus``). A counter that no row
of ``METRICS`` names still appears, as ``attr_<name>``, so that nothing that is counted is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Family = tuple["Metric", list[tuple[tuple[str, ...], float]]]
"""A metric with its samples: the values of its labels, and the value."""


class Metric(NamedTuple):
    """One family: the dotted name, each ``*`` of which is the value of a label."""

    pattern: str
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


METRICS = (
    Metric("http.*.*", "attr_http_requests_total", "counter", ("route", "status"), "Requests by route and status."),
    Metric("cache.replica_hits", "attr_cache_replica_hits_total", "counter", (), "Answers out of a replica's memory."),
    Metric("cache.hits", "attr_cache_hits_total", "counter", (), "Answers out of the ledger."),
    Metric("cache.misses", "attr_cache_misses_total", "counter", (), "Answers that needed an analysis."),
    Metric("cache.replica_bytes", "attr_cache_replica_bytes", "gauge", (), "Replies kept in memory, bytes."),
    Metric("flights.now", "attr_flights", "gauge", (), "Analyses under way or queued."),
    Metric("flights.started", "attr_flights_started_total", "counter", (), "Analyses started."),
    Metric("flights.joined", "attr_flights_joined_total", "counter", (), "Requests that joined a running analysis."),
    Metric("flights.oldest_s", "attr_flights_oldest_seconds", "gauge", (), "Age of the oldest analysis under way, s."),
    Metric("compute.completed", "attr_scans_total", "counter", (), "Logs scanned."),
    Metric("compute.bytes", "attr_scan_bytes_total", "counter", (), "Bytes scanned."),
    Metric("compute.seconds", "attr_scan_seconds_total", "counter", (), "Seconds spent scanning."),
    Metric("verdicts.*.*", "attr_verdicts_total", "counter", ("category", "action"), "Answers by category and action."),
    Metric("outbox.*.waiting", "attr_outbox_waiting", "gauge", ("sink",), "Deliveries that are owed."),
    Metric("outbox.*.parked", "attr_outbox_parked", "gauge", ("sink",), "Deliveries that an operator must look at."),
    Metric("outbox.*.oldest_s", "attr_outbox_oldest_seconds", "gauge", ("sink",), "Age of the oldest delivery owed, s."),
    Metric("outbox.*.delivered", "attr_outbox_delivered_total", "counter", ("sink",), "Deliveries done."),
    Metric("outbox.*.retried", "attr_outbox_retried_total", "counter", ("sink",), "Attempts that failed and are tried again."),
    Metric("llm.calls", "attr_llm_calls_total", "counter", (), "Calls of the model."),
    Metric("llm.failed", "attr_llm_failed_total", "counter", (), "Second opinions that failed."),
    Metric("llm.answered", "attr_llm_answered_total", "counter", (), "Second opinions given."),
    Metric("llm.tokens", "attr_llm_tokens_total", "counter", (), "Tokens sent and received."),
    Metric("llm.cost_usd", "attr_llm_cost_usd_total", "counter", (), "Cost of the model, USD."),
    Metric("llm.latency_s", "attr_llm_seconds_total", "counter", (), "Seconds spent waiting for the model."),
    Metric("llm.breaker_open", "attr_llm_breaker_open", "gauge", (), "1 while the model is left alone."),
    Metric("rate_limit.refused_*", "attr_rate_limited_total", "counter", ("rate",), "Requests refused with 429."),
    Metric("files.mounts_hung", "attr_mounts_hung", "gauge", (), "File systems that no longer answer, by replica that found it."),
    Metric("files.threads_stuck", "attr_file_threads_stuck", "gauge", (), "Threads inside a file system that does not answer."),
    Metric("actors.*.uptime_s", "attr_actor_uptime_seconds", "gauge", ("actor",), "Age of an actor's process, s; 0 while it is away."),
    Metric("actors.replicas", "attr_replicas", "gauge", (), "Ingress replicas that reported lately."),
    Metric("jobs.total", "attr_jobs", "gauge", (), "Tracked jobs."),
    Metric("jobs.max", "attr_jobs_max", "gauge", (), "Tracked jobs at most."),
    Metric("health.status", "attr_health", "gauge", (), "0 ok, 1 degraded, 2 fail."),
)

LEFT_OUT = ("http_seconds", "http_seconds_sum", "requests", "actors")
"""Shown otherwise: latencies as a histogram, requests as ``attr_http_requests_total``, process ids not at all."""

ODD = re.compile(r"[^a-zA-Z0-9_]")


def render_exposition(counters: Mapping[str, float], bounds_s: Sequence[float]) -> str:
    """Return the exposition format 0.0.4; ``bounds_s`` are the upper bounds of the latency classes, s."""
    lines: list[str] = []
    shown: set[str] = set()
    for metric in METRICS:
        samples = sorted(_samples(metric, counters))
        shown |= {dotted for _, dotted in samples}
        if samples:
            lines += _head(metric.name, metric.kind, metric.help)
            lines += [f"{metric.name}{_labels(metric.labels, values)} {_number(counters[dotted])}" for values, dotted in samples]
    lines += _histogram(counters, bounds_s)
    for dotted in sorted(counters.keys() - shown):
        if dotted.partition(".")[0] not in LEFT_OUT:
            name = f"attr_{ODD.sub('_', dotted)}"
            lines += [*_head(name, "untyped", f"The counter {dotted} of GET /stats."), f"{name} {_number(counters[dotted])}"]
    return "\n".join(lines) + "\n"


def families(counters: Mapping[str, float]) -> Iterator[Family]:
    """Yield each family of ``METRICS`` of which something was counted."""
    for metric in METRICS:
        if samples := [(labels, counters[dotted]) for labels, dotted in _samples(metric, counters)]:
            yield metric, samples


def _samples(metric: Metric, counters: Mapping[str, float]) -> list[tuple[tuple[str, ...], str]]:
    if not metric.labels:
        return [((), metric.pattern)] if metric.pattern in counters else []
    shape = re.compile(re.escape(metric.pattern).replace(r"\*", r"([^.]+)"))
    return [(found.groups(), dotted) for dotted in counters if (found := shape.fullmatch(dotted))]


def _histogram(counters: Mapping[str, float], bounds_s: Sequence[float]) -> list[str]:
    name = "attr_http_request_seconds"
    routes: dict[str, dict[int, float]] = {}
    for dotted, count in counters.items():
        group, _, rest = dotted.partition(".")
        if group == "http_seconds":
            route, _, number = rest.partition(".")
            routes.setdefault(route, {})[int(number)] = count
    if not routes:
        return []
    lines = _head(name, "histogram", "Time from a request's arrival at a replica to the end of its reply, s.")
    for route, places in sorted(routes.items()):
        below = 0.0
        for place, bound in enumerate(bounds_s):
            below += places.get(place, 0.0)
            lines.append(f"{name}_bucket{_labels(('route', 'le'), (route, f'{bound:g}'))} {_number(below)}")
        total = below + places.get(len(bounds_s), 0.0)
        lines.append(f"{name}_bucket{_labels(('route', 'le'), (route, '+Inf'))} {_number(total)}")
        lines.append(f"{name}_sum{_labels(('route',), (route,))} {_number(counters.get(f'http_seconds_sum.{route}', 0.0))}")
        lines.append(f"{name}_count{_labels(('route',), (route,))} {_number(total)}")
    return lines


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True)) + "}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 6))
