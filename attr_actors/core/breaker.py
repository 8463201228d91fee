"""The circuit breaker of a remote dependency: after repeated failures it is left alone for a while, then probed once.

A pure state machine: every call takes the present instant (monotonic seconds) and nothing waits. Closed lets all
through; open lets none; half-open lets one probe at a time, whose outcome closes or opens it again for twice as long.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What the breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Failures in a row open it; a success closes it. Not for use from several threads."""

    def __init__(self, failures_max: int = 5, open_s: float = 30.0, open_max_s: float = 300.0, probe_s: float = 150.0) -> None:
        self._failures_max = failures_max
        self._open_s = open_s
        self._open_max_s = open_max_s
        self._probe_s = probe_s
        self._failures = 0
        self._opened = 0
        self._until: float | None = None
        self._probe_until = 0.0

    def state(self, now: float) -> State:
        """Return the state at an instant."""
        if self._until is None:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def admits(self, now: float) -> bool:
        """Tell whether a call may start now, and reserve the probe if it is one.

        A probe that is never reported (its process died) is given up after ``probe_s``.
        """
        match self.state(now):
            case State.CLOSED:
                return True
            case State.OPEN:
                return False
        if now < self._probe_until:
            return False
        self._probe_until = now + self._probe_s
        return True

    def wait_s(self, now: float) -> float:
        """Return how long until a call may be admitted; 0 when it may be now."""
        match self.state(now):
            case State.CLOSED:
                return 0.0
            case State.OPEN:
                return (self._until or now) - now
        return max(0.0, self._probe_until - now)

    def succeeded(self) -> None:
        """Count a success: the dependency is healthy."""
        self._failures = 0
        self._opened = 0
        self._until = None
        self._probe_until = 0.0

    def failed(self, now: float, retry_after_s: float | None = None) -> None:
        """Count a failure; the dependency's own Retry-After lengthens the time for which it is left alone."""
        if self.state(now) is State.OPEN:
            return  # A call that started before the breaker opened tells nothing new.
        probing = self._until is not None
        self._failures += 1
        if not probing and self._failures < self._failures_max:
            return
        pause = min(self._open_max_s, self._open_s * 2.0 ** min(self._opened, 16))
        self._opened += 1
        self._failures = 0
        self._probe_until = 0.0
        self._until = now + min(self._open_max_s, max(pause, retry_after_s or 0.0))
