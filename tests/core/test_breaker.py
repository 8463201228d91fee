"""The breaker stops calls after failures in a row and probes with one call at a time."""

from attr_actors.core.breaker import Breaker, State


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(failures_max=3, open_s=10, open_max_s=40, probe_s=5)
    for _ in range(3):
        assert breaker.admits(now)
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(failures_max=3)
    breaker.failed(0)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(0)
    breaker.failed(0)
    assert breaker.state(0) is State.CLOSED
    breaker.failed(0)
    assert breaker.state(0) is State.OPEN


def test_open_admits_nothing_and_says_how_long() -> None:
    breaker = opened()
    assert not breaker.admits(9.9)
    assert breaker.wait_s(4) == 6


def test_half_open_admits_one_probe_only() -> None:
    breaker = opened()
    assert breaker.state(10) is State.HALF_OPEN
    assert breaker.admits(10)
    assert not breaker.admits(10)


def test_a_lost_probe_is_replaced_after_its_time() -> None:
    breaker = opened()
    assert breaker.admits(10)
    assert not breaker.admits(14.9)
    assert breaker.admits(15)


def test_a_good_probe_closes_it() -> None:
    breaker = opened()
    assert breaker.admits(10)
    breaker.succeeded()
    assert breaker.state(10) is State.CLOSED
    assert breaker.wait_s(10) == 0


def test_each_failed_probe_doubles_the_pause_up_to_the_limit() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(4):
        pauses.append(breaker.wait_s(now))
        now += breaker.wait_s(now)
        assert breaker.admits(now)
        breaker.failed(now)
    assert pauses == [10, 20, 40, 40]


def test_late_failures_of_old_calls_do_not_lengthen_the_pause() -> None:
    breaker = opened()
    breaker.failed(1)
    breaker.failed(2)
    assert breaker.wait_s(2) == 8


def test_retry_after_lengthens_the_pause_within_the_limit() -> None:
    breaker = Breaker(failures_max=1, open_s=10, open_max_s=40)
    breaker.failed(0, retry_after_s=25)
    assert breaker.wait_s(0) == 25
    breaker = Breaker(failures_max=1, open_s=10, open_max_s=40)
    breaker.failed(0, retry_after_s=9999)
    assert breaker.wait_s(0) == 40
