"""Permits for the model: bounded in number, by the breaker and by the day's tokens; lost ones come back."""

from __future__ import annotations

from attr_actors.core.breaker import Breaker, State
from attr_actors.core.quota import DAY_S, Limits, Quota
from attr_actors.models import ModelOutcome

FAILED, GOOD, GONE = (ModelOutcome(result=r, tokens=10) for r in ("failed", "answered", "abandoned"))


def quota(leases: int = 2, tokens: int = 0) -> Quota:
    return Quota(Limits(leases, 100, tokens, 60), Breaker(failures_max=2, open_s=30, open_max_s=300, probe_s=100))


def test_no_more_permits_than_leases_and_one_comes_back() -> None:
    q = quota()
    assert q.lease("a", 0).granted
    assert q.lease("b", 0).granted
    assert q.lease("c", 0).busy
    q.settle("a", GOOD, 1)
    assert q.lease("c", 1).granted


def test_a_repeated_ticket_takes_no_second_lease() -> None:
    q = quota()
    assert q.lease("a", 0).granted
    assert q.lease("a", 1).granted
    assert q.under_way(1) == 1


def test_a_lost_permit_expires() -> None:
    q = quota(leases=1)
    assert q.lease("a", 0).granted
    assert q.lease("b", 99).busy
    assert q.lease("b", 100).granted


def test_an_outcome_that_comes_too_late_or_twice_counts_its_tokens_only() -> None:
    q = quota()
    q.lease("a", 0)
    for _ in range(3):
        q.settle("a", FAILED, 1)
    assert q.state(1) is State.CLOSED
    assert q.tokens_today(1) == 30


def test_failures_open_the_breaker_for_all_and_one_probe_closes_it() -> None:
    q = quota(leases=5)
    for ticket in "ab":
        q.lease(ticket, 0)
    for ticket in "ab":
        q.settle(ticket, FAILED, 0)
    refused = q.lease("c", 1)
    assert (refused.granted, refused.busy, refused.retry_after_s) == (False, False, 29)
    assert q.lease("c", 31).granted
    assert not q.lease("d", 31).granted
    q.settle("c", GOOD, 32)
    assert q.lease("d", 32).granted


def test_unusable_answers_do_not_open_the_breaker_but_count_as_failed() -> None:
    q = quota()
    for n in range(5):
        q.lease(str(n), n)
        q.settle(str(n), ModelOutcome(result="unusable"), n)
    assert q.state(5) is State.CLOSED
    assert q.recent.counts(5) == (5, 5)


def test_the_window_forgets() -> None:
    q = quota()
    q.lease("a", 0)
    q.settle("a", FAILED, 0)
    q.lease("b", 30)
    q.settle("b", GOOD, 30)
    q.lease("c", 31)
    q.settle("c", GONE, 31)
    assert q.recent.counts(59) == (2, 1)
    assert q.recent.counts(60) == (1, 0)


def test_the_days_tokens_are_a_limit_until_midnight() -> None:
    q = quota(tokens=15)
    noon = 20_000 * DAY_S + DAY_S / 2
    q.spend(15, noon)
    refused = q.lease("a", noon)
    assert (refused.granted, refused.busy, refused.retry_after_s) == (False, False, DAY_S / 2)
    assert q.lease("a", noon + DAY_S).granted
    assert q.tokens_today(noon + DAY_S) == 0
