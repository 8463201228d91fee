"""The meter actor: adds up what the replicas did."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from attr_actors.actors.own_health import own_health
from attr_actors.models import Figures, Health, Stats
from attr_actors.settings import Settings

SOURCES_MAX = 1000
"""Replicas remembered, living and gone; above it the longest silent one is added to ``gone`` for good."""

SILENT_S = 15.0
"""A replica that reported nothing for so long is gone: its gauges no longer count, its counters do."""


class Meter:
    """Exists because a scrape reaches one replica and must see the requests of all of them.

    A replica reports its counters since its start, so that a report may be lost or come twice. A meter that is killed
    learns them again from the living; scrapers know a counter that fell as a restart.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._started_at = clock()
        self._reports: OrderedDict[str, tuple[float, Figures]] = OrderedDict()
        self._gone: Counter[str] = Counter()

    async def report(self, figures: Figures) -> None:
        """Take in the newest figures of one replica."""
        self._reports[figures.source] = (self._clock(), figures)
        self._reports.move_to_end(figures.source)
        if len(self._reports) > SOURCES_MAX:
            self._gone.update(self._reports.popitem(last=False)[1][1].counts)

    async def stats(self) -> Stats:
        """Return the sums: counters of all replicas that ever reported, gauges of those that live."""
        total = Counter(self._gone)
        alive = [figures for at, figures in self._reports.values() if self._clock() - at < SILENT_S]
        for _, figures in self._reports.values():
            total.update(figures.counts)
        for figures in alive:
            total.update(figures.gauges)
        return Stats(counts={**total, "actors.replicas": float(len(alive))})

    async def health(self) -> Health:
        """Return who this process is."""
        return own_health("meter", self._settings, self._started_at)
