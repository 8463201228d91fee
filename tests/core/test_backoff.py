"""Delays grow, stay bounded and are spread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.backoff import ASKED_MAX_S, delay_s, gives_up, parse_retry_after


def test_delay_doubles_up_to_the_longest() -> None:
    delays = [delay_s(n, 1, 60, 0.999999) for n in (1, 2, 3, 7, 8, 10**6)]
    assert delays == pytest.approx([1, 2, 4, 60, 60, 60], rel=1e-5)


@given(st.integers(-5, 10**9), st.floats(0.01, 10), st.floats(0, 0.9999))
def test_delay_is_always_between_half_and_the_longest(attempt: int, first: float, chance: float) -> None:
    assert min(first, 300) / 2 <= delay_s(attempt, first, 300, chance) <= 300


def test_it_gives_up_at_the_limit_and_not_before() -> None:
    assert [gives_up(n, 3) for n in (2, 3, 4)] == [False, True, True]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7), ("0.5", 0.5), ("-3", 0), ("86400", ASKED_MAX_S), ("inf", ASKED_MAX_S), ("nan", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_pause_that_the_other_side_asks_for_is_bounded(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds
