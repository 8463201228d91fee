"""How the attempts of the last minutes went, and what that says of the service's health.

Pure: every method takes the present instant (epoch seconds).
"""

from __future__ import annotations

from collections import deque

DEGRADED_SHARE, FAILING_SHARE = 0.2, 0.5
"""Shares of failed attempts in the window from which the service is degraded, and failing."""

SAMPLES_MIN = 3
"""Fewer attempts say nothing."""

SAMPLES_MAX = 10_000
"""Attempts remembered, the latest."""


class FailureShare:
    """The attempts within a window of seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._attempts: deque[tuple[float, bool]] = deque(maxlen=SAMPLES_MAX)

    def note(self, ok: bool, now: float) -> None:
        """Add an attempt."""
        self._attempts.append((now, ok))

    def counts(self, now: float) -> tuple[int, int]:
        """Return (all, failed) attempts within the window."""
        while self._attempts and self._attempts[0][0] <= now - self._window_s:
            self._attempts.popleft()
        return len(self._attempts), sum(not ok for _, ok in self._attempts)

    def is_degraded(self, now: float) -> bool:
        """Tell whether a fifth of the attempts failed."""
        return self._share(now) >= DEGRADED_SHARE

    def is_failing(self, now: float) -> bool:
        """Tell whether half of the attempts failed."""
        return self._share(now) >= FAILING_SHARE

    def _share(self, now: float) -> float:
        total, failed = self.counts(now)
        return failed / total if total >= SAMPLES_MIN else 0.0
