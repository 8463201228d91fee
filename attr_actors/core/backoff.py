"""Attempt number to delay, what the other side asks for, and when to give up."""

from __future__ import annotations

ASKED_MAX_S = 3600.0
"""The longest pause that the other side is granted."""


def delay_s(attempt: int, first_s: float, longest_s: float, chance: float) -> float:
    """Return the pause after failed attempt number ``attempt`` (from 1): doubling, bounded, and spread by half.

    ``chance`` in [0, 1) spreads the callers, so that those that failed together do not come back together.
    """
    doubled = first_s * 2.0 ** min(max(attempt, 1) - 1, 60)
    return min(doubled, longest_s) * (0.5 + chance / 2)


def parse_retry_after(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most ASKED_MAX_S; None for none and for a date, which is rare."""
    try:
        return min(max(0.0, float(header or "")), ASKED_MAX_S)
    except ValueError:
        return None


def gives_up(attempts: int, attempts_max: int) -> bool:
    """Tell whether so many failed attempts are enough."""
    return attempts >= attempts_max
