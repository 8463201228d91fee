"""The limiter actor: counts the requests of each client over all replicas."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from attr_actors.actors.own_health import own_health
from attr_actors.models import Health, Holding, Lease, Stats
from attr_actors.settings import Settings

SHARE = 16
"""A batch is at most this part of what remains: the last requests of a window are granted one by one, hence exactly."""

RECOVERY_S = 2.5
RECOVERY_SHARE = 50
"""A limiter that took another's place grants a client at most 2 % of a limit until every replica had time to tell what it holds."""


class Limiter:
    """Exists because a client's limit holds over all replicas, which lease from here in batches.

    It keeps its counts in memory. A replica counts with the name of the process that granted it something; asked by that
    name, another process grants nothing, and the replica first restores what it holds. So a restart forgets nothing.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._started_at = clock()
        self._rates = {rate: parse(text) for rate, text in settings.rates.items()}
        self._storage = MemoryStorage()
        self._windows = FixedWindowRateLimiter(self._storage)
        self._name = secrets.token_hex(8)
        self._recovering_until = 0.0
        self._recovery_grants: Counter[tuple[str, str]] = Counter()
        self._counts: Counter[str] = Counter()

    async def lease(self, rate: str, client: str, wanted: int, incarnation: str) -> Lease:
        """Grant a batch; nothing to a replica that counts with another incarnation, and nothing above the limit."""
        item = self._rates[rate]
        self._note(incarnation)
        ends_at, remaining = self._windows.get_window_stats(item, rate, client)
        granted = min(wanted, max(1, remaining // SHARE), remaining, self._recovery_left(item, rate, client))
        if incarnation not in ("", self._name):
            granted = 0
        if granted:
            self._windows.hit(item, rate, client, cost=granted)
            self._recovery_grants[rate, client] += granted
            ends_at, remaining = self._windows.get_window_stats(item, rate, client)
        self._counts["rate_limit.leases"] += 1
        self._counts["rate_limit.granted"] += granted
        self._counts["rate_limit.exhausted"] += not remaining
        if not granted and remaining:  # Recovering: ask again soon.
            ends_at = min(max(ends_at, self._clock()), self._recovering_until)
        return Lease(granted=granted, remaining=remaining, ends_at=ends_at, incarnation=self._name)

    async def incarnation(self) -> str:
        """Return the name of this process."""
        return self._name

    async def restore(self, holdings: tuple[Holding, ...]) -> str:
        """Take in what a replica was granted by an earlier process; return this one's name."""
        self._note("another")
        now = self._clock()
        for held in holdings:
            if held.ends_at > now and held.granted > 0:
                key = self._rates[held.rate].key_for(held.rate, held.client)
                self._storage.incr(key, held.ends_at - now, amount=held.granted)
        self._counts["rate_limit.restored"] += len(holdings)
        return self._name

    async def stats(self) -> Stats:
        """Return counters of leases."""
        return Stats(counts={**self._counts, "rate_limit.windows": float(len(self._storage.storage))})

    async def health(self) -> Health:
        """Return who this process is."""
        return own_health("limiter", self._settings, self._started_at)

    def _note(self, incarnation: str) -> None:
        """A replica that knows another process tells that this one took its place."""
        if incarnation not in ("", self._name) and not self._recovering_until:
            self._recovering_until = self._clock() + RECOVERY_S

    def _recovery_left(self, item: RateLimitItem, rate: str, client: str) -> int:
        if self._clock() >= self._recovering_until:
            self._recovery_grants.clear()
            return int(item.amount)
        return max(1, item.amount // RECOVERY_SHARE) - self._recovery_grants[rate, client]
