"""Counters of the actors -> the groups of GET /stats, whose names the predecessor's dashboards read."""

from __future__ import annotations

from typing import Any

GROUPS = (
    "cache",
    "submissions",
    "in_flight",
    "requests",
    "compute",
    "cleanup",
    "persistence",
    "splitlog",
    "detection",
    "deferred",
    "permission_errors",
    "dataflow",
    "slack",
    "actors",
    "outbox",
    "llm",
    "rate_limit",
)

LEFT_OUT = frozenset({"http_seconds", "http_seconds_sum"})
"""Latency classes: GET /metrics shows them as a histogram."""


def group(counters: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Put ``group.name`` counters into their groups; every group is there, even when nothing was counted yet."""
    grouped: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
    for dotted, value in sorted(counters.items()):
        name, _, key = dotted.partition(".")
        if name in LEFT_OUT:
            continue
        grouped.setdefault(name, {})[key or "total"] = int(value) if value == int(value) else round(value, 6)
    return grouped
