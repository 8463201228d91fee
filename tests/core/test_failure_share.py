"""The share of failed attempts within a window."""

from __future__ import annotations

from attr_actors.core.failure_share import SAMPLES_MAX, FailureShare


def test_a_fifth_degrades_and_a_half_fails() -> None:
    share = FailureShare(60)
    for n in range(8):
        share.note(True, n)
    share.note(False, 8)
    assert not share.is_degraded(8)
    share.note(False, 9)
    assert (share.is_degraded(9), share.is_failing(9)) == (True, False)
    for n in range(10, 16):
        share.note(False, n)
    assert share.is_failing(15)


def test_what_left_the_window_does_not_count() -> None:
    share = FailureShare(60)
    for n in range(3):
        share.note(False, n)
    assert share.is_failing(59)
    assert (share.counts(60), share.is_failing(60)) == ((2, 2), False)  # Two attempts say nothing.
    assert share.counts(62) == (0, 0)


def test_only_so_many_attempts_are_remembered() -> None:
    share = FailureShare(60)
    for _ in range(SAMPLES_MAX + 5):
        share.note(True, 1)
    assert share.counts(1) == (SAMPLES_MAX, 0)
