"""What this replica did since it started, and how the others learn of it."""

from __future__ import annotations

import bisect
import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable

from attr_actors.errors import BusyError
from attr_actors.handles import MeterHandle
from attr_actors.models import Figures

logger = logging.getLogger("attr_actors.figures")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the latency classes, s: from an answer out of memory to COMPUTE_TIMEOUT."""


class FigureBook:
    """Counts in memory and reports to the meter: no request waits for a figure."""

    def __init__(self, meter: MeterHandle) -> None:
        self._meter = meter
        self._source = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.counts: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._gauges: list[Callable[[], dict[str, float]]] = []

    def gauge(self, read: Callable[[], dict[str, float]]) -> None:
        """Report what ``read()`` returns at the moment of each report."""
        self._gauges.append(read)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count one request and how long it took."""
        self.counts[f"requests.{route}"] += 1
        self.counts[f"http.{route}.{status}"] += 1
        self.counts[f"http_seconds.{route}.{bisect.bisect_left(SECONDS, seconds)}"] += 1
        self._seconds[f"http_seconds_sum.{route}"] += seconds  # type: ignore[assignment]

    def read(self) -> Figures:
        """Return the figures of this moment."""
        gauges: dict[str, float] = {}
        for read in self._gauges:
            gauges |= read()
        return Figures(source=self._source, counts={**self.counts, **self._seconds}, gauges=gauges)

    async def report(self) -> None:
        """Tell the meter. A lost report costs nothing: the next one holds it all."""
        try:
            await self._meter.report(self.read())
        except BusyError as exc:
            logger.info("the meter could not be told: %s", exc.message)
