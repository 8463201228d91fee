"""When a stored answer may be served."""

from __future__ import annotations

import pytest

from attr_actors.core.validity import in_grace, is_too_old, is_valid
from tests.answers import analysis

DAY = 86400
MTIME_NS = 10**18
NOW = 1e9 + DAY


def valid(at: float, size: int = 4096, mtime_ns: int = MTIME_NS, now: float = NOW) -> bool:
    return is_valid(analysis(at=at, mtime_ns=MTIME_NS), now, 600, 14 * DAY, size, mtime_ns)


def test_answer_inside_the_grace_period_is_valid_whatever_the_file_does() -> None:
    assert valid(NOW - 599, size=1, mtime_ns=2)


def test_answer_after_the_grace_period_is_valid_only_while_size_and_mtime_match() -> None:
    assert valid(NOW - 600)
    assert not valid(NOW - 600, size=4097)
    assert not valid(NOW - 600, mtime_ns=MTIME_NS + 1)


def test_answer_of_a_log_older_than_the_limit_is_not_valid_after_the_grace_period() -> None:
    late = MTIME_NS / 1e9 + 14 * DAY + 1
    assert not valid(late - 601, now=late)
    assert valid(late - 599, now=late)
    assert is_too_old(MTIME_NS, late, 14 * DAY)


@pytest.mark.parametrize("age", [-1.0, -1e6])
def test_answer_from_the_future_gets_no_grace(age: float) -> None:
    assert not in_grace(analysis(at=NOW - age), NOW, 600)
