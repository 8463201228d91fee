"""Who may ask the model now: calls under way, the breaker, the day's tokens, and how the last minutes went.

Pure: every method takes the present instant (epoch seconds). A lease that is never returned expires.
"""

from __future__ import annotations

from typing import NamedTuple

from attr_actors.core.breaker import Breaker, State
from attr_actors.core.failure_share import FailureShare
from attr_actors.models import ModelOutcome, Permit

DAY_S = 86_400


class Limits(NamedTuple):
    """The bounds of the whole service. ``tokens_per_day`` of 0 means no limit."""

    leases_max: int
    lease_s: float
    tokens_per_day: int
    window_s: float


class Quota:
    """Grants and takes back permits for second opinions."""

    def __init__(self, limits: Limits, breaker: Breaker) -> None:
        self._limits = limits
        self._breaker = breaker
        self._leases: dict[str, float] = {}
        self._day = 0
        self._tokens = 0
        self.recent = FailureShare(limits.window_s)

    def spend(self, tokens: int, now: float) -> None:
        """Count tokens against the day of ``now`` (UTC)."""
        day = int(now // DAY_S)
        self._tokens = tokens if day != self._day else self._tokens + tokens
        self._day = day

    def tokens_today(self, now: float) -> int:
        """Return the tokens spent since midnight UTC."""
        return self._tokens if int(now // DAY_S) == self._day else 0

    def lease(self, ticket: str, now: float) -> Permit:
        """Grant a permit or say why not. The same ticket gets the same permit again."""
        self._expire(now)
        if ticket in self._leases:
            return Permit(granted=True)
        if self._limits.tokens_per_day and self.tokens_today(now) >= self._limits.tokens_per_day:
            return Permit(granted=False, reason="the day's token budget is spent", retry_after_s=DAY_S - now % DAY_S)
        if self._breaker.state(now) is State.OPEN:
            return self._left_alone(now)
        if len(self._leases) >= self._limits.leases_max:
            return Permit(granted=False, busy=True, reason="the model is busy with other logs", retry_after_s=1.0)
        if not self._breaker.admits(now):
            return self._left_alone(now)
        self._leases[ticket] = now + self._limits.lease_s
        return Permit(granted=True)

    def settle(self, ticket: str, outcome: ModelOutcome, now: float) -> None:
        """Take a permit back with what became of it; a ticket that is not known any more only counts its tokens."""
        self.spend(outcome.tokens, now)
        if self._leases.pop(ticket, None) is None:
            return
        if outcome.result == "failed":
            self._breaker.failed(now, outcome.retry_after_s)
        elif outcome.result != "abandoned":
            self._breaker.succeeded()  # The endpoint works, whatever it said.
        if outcome.result != "abandoned":
            self.recent.note(outcome.result == "answered", now)

    def state(self, now: float) -> State:
        """Return the breaker's state."""
        return self._breaker.state(now)

    def wait_s(self, now: float) -> float:
        """Return how long the endpoint is left alone."""
        return self._breaker.wait_s(now)

    def under_way(self, now: float) -> int:
        """Return the number of leases out."""
        self._expire(now)
        return len(self._leases)

    def _left_alone(self, now: float) -> Permit:
        pause = self._breaker.wait_s(now)
        return Permit(granted=False, reason="the model endpoint failed repeatedly and is left alone for now", retry_after_s=pause)

    def _expire(self, now: float) -> None:
        for ticket in [t for t, until in self._leases.items() if until <= now]:
            del self._leases[ticket]
