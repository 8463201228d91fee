"""Limits over several replicas, which share one limiter."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from attr_actors.actors.limiter import Limiter
from attr_actors.errors import RateLimited, Unavailable
from attr_actors.models import Holding, Lease
from attr_actors.settings import Settings
from serve_app.allowances import Allowances


class Link:
    """A limiter that can be killed, cut off, and asked how often it was called."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.ahead_s = 0.0
        self._limiter = Limiter(settings, self._clock)
        self.down = False
        self.leases = 0

    def _clock(self) -> float:
        return time.time() + self.ahead_s

    def kill(self) -> None:
        self._limiter = Limiter(self._settings, self._clock)

    async def _hop(self) -> Limiter:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("the limiter is restarting")
        return self._limiter

    async def lease(self, rate: str, client: str, wanted: int, incarnation: str) -> Lease:
        self.leases += 1
        return await (await self._hop()).lease(rate, client, wanted, incarnation)

    async def incarnation(self) -> str:
        return await (await self._hop()).incarnation()

    async def restore(self, holdings: tuple[Holding, ...]) -> str:
        return await (await self._hop()).restore(holdings)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(allowed_root=str(tmp_path), rate_limit_analyze="600/minute", replicas_max=3)


async def admitted(replicas: list[Allowances], client: str, requests: int) -> int:
    """Send requests round the replicas, eight at a time, and count what is let through."""
    count = 0
    waits: list[float] = []

    async def ask(first: int) -> None:
        nonlocal count
        for number in range(first, requests, 8):
            replica = replicas[number % len(replicas)]
            try:
                await replica.charge(replica.account("analyze", client))
                count += 1
            except RateLimited as exc:
                waits.append(exc.retry_after_s or 0)

    await asyncio.gather(*(ask(first) for first in range(8)))
    assert all(0 < wait_s <= 60 for wait_s in waits)
    return count


def replicas_of(settings: Settings, link: Link, count: int = 3) -> list[Allowances]:
    return [Allowances(settings, link, Counter()) for _ in range(count)]  # type: ignore[arg-type]


def test_three_replicas_admit_the_limit_and_two_clients_do_not_share_it(settings: Settings) -> None:
    link = Link(settings)

    async def trial() -> None:
        replicas = replicas_of(settings, link)
        assert await admitted(replicas, "a", 2000) == 600
        assert await admitted(replicas, "b", 2000) == 600

    asyncio.run(trial())
    assert link.leases < 600  # Batches, not a hop per request.


@pytest.mark.parametrize("killed_after", [0, 10, 300, 590])
def test_a_limiter_killed_in_between_changes_the_count_by_at_most_a_batch(settings: Settings, killed_after: int) -> None:
    link = Link(settings)

    async def trial() -> int:
        replicas = replicas_of(settings, link)
        before = await admitted(replicas, "a", killed_after)
        link.kill()
        for replica in replicas:
            await replica.compare()
        link.ahead_s = 3  # The time in which a new limiter is cautious is over.
        return before + await admitted(replicas, "a", 2000)

    assert abs(asyncio.run(trial()) - 600) <= 600 // 16


def test_a_new_limiter_grants_a_trickle_until_the_replicas_had_time_to_tell_what_they_hold(settings: Settings) -> None:
    link = Link(settings)

    async def trial() -> None:
        first, second = replicas_of(settings, link, 2)
        assert await admitted([first, second], "a", 590) == 590
        link.kill()
        extra = await admitted([first], "a", 500)  # The other replica has not spoken yet.
        assert extra <= 10 + 600 // 16 + 600 // 50

    asyncio.run(trial())


def test_without_a_limiter_each_replica_lets_its_own_share_through(settings: Settings) -> None:
    link = Link(settings)
    link.down = True

    async def trial() -> None:
        assert await admitted(replicas_of(settings, link), "a", 3000) == 600

    asyncio.run(trial())


def test_a_window_ends_and_the_next_one_is_full_again(settings: Settings) -> None:
    link = Link(settings.model_copy(update={"rate_limit_analyze": "5/second"}))
    configured = settings.model_copy(update={"rate_limit_analyze": "5/second"})

    async def trial() -> None:
        replicas = replicas_of(configured, link)
        assert await admitted(replicas, "a", 50) == 5
        await asyncio.sleep(1.1)  # The window is real time: the library has no other clock.
        assert await admitted(replicas, "a", 50) == 5

    asyncio.run(trial())


def test_a_refund_lets_one_more_request_through(settings: Settings) -> None:
    configured = settings.model_copy(update={"rate_limit_analyze": "1/minute"})
    link = Link(configured)

    async def trial() -> None:
        replica = Allowances(configured, link, Counter())  # type: ignore[arg-type]
        account = replica.account("analyze", "a")
        await replica.charge(account)
        with pytest.raises(RateLimited):
            await replica.charge(account)
        replica.refund(account)
        await replica.charge(account)

    asyncio.run(trial())


class SlowLink(Link):
    """A limiter whose answers come when they are let through."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate: asyncio.Future[None] | None = None

    async def _hop(self) -> Limiter:
        if self.gate is not None:
            await self.gate
        return self._limiter


@pytest.mark.timeout(10)
def test_requests_that_come_as_a_lease_ends_do_not_stop_the_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = Settings.load(allowed_root=str(tmp_path), rate_limit_analyze="8/hour")
        link = SlowLink(settings)
        replica = Allowances(settings, link, Counter())  # type: ignore[arg-type]

        def ask() -> asyncio.Task[None]:
            return asyncio.create_task(replica.charge(replica.account("analyze", "ann")))

        await ask()
        await asyncio.sleep(0.01)  # The next request's lease is here.
        link.gate = asyncio.get_running_loop().create_future()
        await ask()  # Takes it; the lease after it waits at the gate.
        await asyncio.sleep(0)
        link.gate.set_result(None)
        await asyncio.gather(*(ask() for _ in range(3)))  # The first takes what the lease brought; the next finds a lease that is done.

    asyncio.run(scenario())
