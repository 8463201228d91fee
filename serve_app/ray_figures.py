"""The figures of /metrics among Ray's own, so that a cluster that scrapes Ray's nodes sees them without a second scrape job.

Hold in mind: one replica publishes the totals of the whole service, each as a gauge (a counter, too: Ray keeps the counters of
processes that have ended, and lets their gauges go). While the task passes to another replica both may be seen: ask for
``max by (...)``, never for a sum over replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from attr_actors.core.exposition import Family, Metric, families

log = logging.getLogger("attr_actors.figures")

ASK_S = 8.0
"""How often the actors are asked: two quick calls of each."""

SET_S = 1.0
"""How often the gauges are set: Ray drops a gauge that was not set during its last two reports, and reports at most once a second."""

Gauge = Callable[[float, dict[str, str]], None]
"""Sets the value for the labels."""


class RayFigures:
    """Publishes the families of ``exposition.METRICS`` where ``is_mine()``; one per replica."""

    def __init__(
        self, counters: Callable[[], Awaitable[dict[str, float]]], open_gauge: Callable[[Metric], Gauge], is_mine: Callable[[], bool]
    ) -> None:
        self._counters = counters
        self._open_gauge = open_gauge
        self._is_mine = is_mine
        self._gauges: dict[str, Gauge] = {}
        self._known: list[Family] = []
        self._asked_at = -ASK_S
        self._failing = False

    async def run(self) -> None:
        """Publish for ever. Figures that cannot be had are not shown; an outage is one line in the log."""
        while True:
            await asyncio.sleep(SET_S)
            try:
                await self.publish()
                self._failing = False
            except Exception as exc:
                log.log(logging.DEBUG if self._failing else logging.WARNING, "Ray was not told the figures", exc_info=exc)
                self._failing, self._known = True, []

    async def publish(self) -> None:
        """Set the gauges, if it is this replica's turn, after asking for the figures when they are old."""
        if time.monotonic() - self._asked_at >= ASK_S:
            self._asked_at = time.monotonic()
            self._known = list(families(await self._counters())) if self._is_mine() else []
        for metric, samples in self._known:
            gauge = self._gauges.get(metric.name) or self._gauges.setdefault(metric.name, self._open_gauge(metric))
            for values, value in samples:
                gauge(value, dict(zip(metric.labels, values, strict=True)))
