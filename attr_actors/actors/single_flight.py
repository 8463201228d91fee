"""At most one running piece of work per key, shared by everybody who asks for it meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from attr_actors.errors import AttrError, Overloaded

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    started_at: float
    started: float
    waiters: int = 0


class SingleFlight(Generic[T]):
    """Coalesces by key. A flight is a task of its own: a waiter that goes away does not stop it.

    A failure is shared with the waiters of that flight and is not remembered.
    """

    def __init__(self, flights_max: int) -> None:
        self._flights_max = flights_max
        self._flights: dict[str, _Flight[T]] = {}
        self.started = 0
        self.joined = 0

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def full(self) -> bool:
        """Tell whether a key that is not under way would be refused."""
        return len(self._flights) >= self._flights_max

    async def join(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for the flight of ``key``, starting it with ``work`` if there is none. Raises Overloaded when full."""
        flight = self._take_off(key, work)
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1

    def start(self, key: str, work: Callable[[], Awaitable[T]]) -> None:
        """Start the flight of ``key`` without waiting. Raises Overloaded when full."""
        self._take_off(key, work)

    def flights(self) -> list[tuple[str, float, float, int]]:
        """Return (key, started_at in epoch s, elapsed in s, waiters) per flight."""
        now = time.monotonic()
        return [(key, f.started_at, now - f.started, f.waiters) for key, f in self._flights.items()]

    async def cancel(self) -> None:
        """End all flights; who waits for one sees a cancellation."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take_off(self, key: str, work: Callable[[], Awaitable[T]]) -> _Flight[T]:
        flight = self._flights.get(key)
        if flight is not None:
            self.joined += 1
            return flight
        if self.full:
            raise Overloaded(f"{self._flights_max} analyses are under way or queued; try again later", 5.0)
        flight = _Flight(asyncio.ensure_future(_run(work)), time.time(), time.monotonic())
        self._flights[key] = flight
        self.started += 1
        flight.task.add_done_callback(lambda task: self._land(key, task))
        return flight

    def _land(self, key: str, task: asyncio.Task[T]) -> None:
        del self._flights[key]
        if not task.cancelled() and not isinstance(fault := task.exception(), AttrError | None):
            log.error("the work on '%s' failed unexpectedly", key, exc_info=fault)  # It may have no waiters that would tell.


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
