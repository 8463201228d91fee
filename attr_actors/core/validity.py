"""Whether a stored answer may be served, and when it is evicted. The caller brings the clock and the stat."""

from __future__ import annotations

from attr_actors.models import Analysis


def in_grace(analysis: Analysis, now: float, grace_s: float) -> bool:
    """Tell whether an answer is young enough to be served without a stat. One from the future (a stepped clock) is not."""
    return 0 <= now - analysis.analysed_at < grace_s


def is_valid(analysis: Analysis, now: float, grace_s: float, age_max_s: float, size: int, mtime_ns: int) -> bool:
    """Tell whether an answer still stands: inside the grace period always, afterwards while the log has its size and mtime.

    ``size`` and ``mtime_ns`` are of a fresh stat. A log older than ``age_max_s`` is analysed again.
    """
    if in_grace(analysis, now, grace_s):
        return True
    seen = analysis.snapshot
    return seen.size == size and seen.mtime_ns == mtime_ns and not is_too_old(seen.mtime_ns, now, age_max_s)


def is_too_old(mtime_ns: int, now: float, age_max_s: float) -> bool:
    """Tell whether a log was last written longer ago than answers are kept."""
    return now - mtime_ns / 1e9 > age_max_s
