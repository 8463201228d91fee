"""The model gate: the cluster-wide bound on what is asked of the model's endpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable

from attr_actors.actors.own_health import own_health
from attr_actors.core.breaker import Breaker, State
from attr_actors.core.quota import DAY_S, Limits, Quota
from attr_actors.handles import LedgerHandle
from attr_actors.models import Health, ModelOutcome, Permit, Stats
from attr_actors.settings import Settings

log = logging.getLogger(__name__)

LEASE_MARGIN_S = 30.0
NAP_S = 1.0
"""Waiters look again after this: an expired lease wakes nobody."""


class ModelGate:
    """Exists because the endpoint's limits are the cluster's, not an analyzer's: calls, breaker and tokens need one owner.

    The tokens of the day are read back from the ledger; leases and the breaker's state begin anew, which costs at most
    one round of failing calls.
    """

    def __init__(self, settings: Settings, ledger: LedgerHandle, key_source: str | None, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._ledger = ledger
        self._key_source = key_source
        self._clock = clock
        self._started_at = clock()
        pause_s = settings.llm_breaker_open_s
        lease_s = settings.llm_deadline_s + LEASE_MARGIN_S
        limits = Limits(settings.llm_calls_max, lease_s, settings.llm_tokens_per_day, settings.health_window_s)
        self._quota = Quota(limits, Breaker(settings.llm_breaker_failures, pause_s, 10 * pause_s, lease_s))
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._budget_known = False
        self._counts: Counter[str] = Counter()
        if key_source is None:
            log.info("no API key for a model: the rules answer alone")
        else:
            log.info("second opinions by %s at %s, key from %s", settings.llm_model, settings.llm_base_url, key_source)

    async def acquire(self, ticket: str, wait_s: float) -> Permit:
        """Return a permit, waiting up to ``wait_s`` for a free slot."""
        await self._learn_budget()
        until = self._clock() + wait_s
        while True:
            now = self._clock()
            permit = self._quota.lease(ticket, now)
            if not permit.busy or now >= until:
                self._counts["granted" if permit.granted else "refused"] += 1
                return permit
            await self._doze(min(NAP_S, until - now))

    async def release(self, ticket: str, outcome: ModelOutcome) -> None:
        """Give a permit back with what became of it."""
        self._quota.settle(ticket, outcome, self._clock())
        self._counts[outcome.result] += 1
        for name in ("tokens", "cost_usd", "latency_s", "calls"):
            self._counts[name] += getattr(outcome, name)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def stats(self) -> Stats:
        """Return the counters of the model."""
        now = self._clock()
        counts = {f"llm.{name}": float(value) for name, value in self._counts.items()}
        counts |= {
            "llm.configured": float(self._key_source is not None),
            "llm.under_way": float(self._quota.under_way(now)),
            "llm.waiting": float(len(self._waiting)),
            "llm.breaker_open": float(self._quota.state(now) is not State.CLOSED),
            "llm.tokens_today": float(self._quota.tokens_today(now)),
        }
        return Stats(counts=counts)

    async def health(self) -> Health:
        """Return who this process is, and how the recent second opinions went."""
        now = self._clock()
        recent = self._quota.recent
        issues = []
        if recent.is_degraded(now):
            total, failed = recent.counts(now)
            issues.append(f"{failed} of {total} second opinions failed within {self._settings.health_window_s:g} s")
        if self._quota.state(now) is State.OPEN:
            issues.append(f"the model endpoint is left alone for {self._quota.wait_s(now):.0f} s; the rules answer alone")
        return own_health("model-gate", self._settings, self._started_at, issues, failing=recent.is_failing(now))

    async def _doze(self, seconds: float) -> None:
        """Wait until a permit comes back, in the order of arrival, or for some time."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await asyncio.wait_for(waiter, seconds)
        except TimeoutError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def _learn_budget(self) -> None:
        """Read the day's tokens from the ledger once: a restart must not grant the day again."""
        if self._budget_known or not self._settings.llm_tokens_per_day:
            return
        now = self._clock()
        spent = await self._ledger.tokens_since(now - now % DAY_S)
        if not self._budget_known:  # Others may have asked while we waited.
            self._budget_known = True
            self._quota.spend(spent, now)
