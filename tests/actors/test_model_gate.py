"""The gate: one bound for all analyzers, waiting in line, a budget that outlives it, and a truthful health."""

from __future__ import annotations

import asyncio
from pathlib import Path

from attr_actors.actors.model_gate import ModelGate
from attr_actors.models import ModelOutcome
from attr_actors.settings import Settings

DAY = 20_000 * 86_400.0


class Spent:
    """A ledger that knows the day's tokens."""

    def __init__(self, tokens: int = 0) -> None:
        self.tokens = tokens
        self.asked: list[float] = []

    async def tokens_since(self, at: float) -> int:
        self.asked.append(at)
        return self.tokens


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = DAY + 3600.0

    def __call__(self) -> float:
        return self.now


def gate(tmp_path: Path, ledger: Spent | None = None, clock: Clock | None = None, **changes: object) -> ModelGate:
    settings = Settings.load(allowed_root=str(tmp_path), **changes)
    return ModelGate(settings, ledger or Spent(), "test", clock or Clock())  # type: ignore[arg-type]


def outcome(result: str, tokens: int = 0) -> ModelOutcome:
    return ModelOutcome(result=result, tokens=tokens, calls=1, latency_s=0.5)  # type: ignore[arg-type]


def test_a_hundred_askers_never_hold_more_permits_than_allowed_and_all_get_one(tmp_path: Path) -> None:
    async def go() -> tuple[int, int]:
        g, held, most = gate(tmp_path, llm_calls_max=3), 0, 0

        async def one(n: int) -> None:
            nonlocal held, most
            permit = await g.acquire(f"t{n}", 1e6)
            assert permit.granted
            held += 1
            most = max(most, held)
            await asyncio.sleep(0)
            held -= 1
            await g.release(f"t{n}", outcome("answered"))

        await asyncio.gather(*(one(n) for n in range(100)))
        return most, int((await g.stats()).counts["llm.answered"])

    assert asyncio.run(go()) == (3, 100)


def test_an_asker_that_may_not_wait_is_told_that_the_model_is_busy(tmp_path: Path) -> None:
    async def go() -> None:
        g = gate(tmp_path, llm_calls_max=1)
        assert (await g.acquire("a", 0)).granted
        refused = await g.acquire("b", 0)
        assert (refused.granted, refused.busy) == (False, True)

    asyncio.run(go())


def test_the_budget_of_the_day_is_read_back_after_a_restart(tmp_path: Path) -> None:
    async def go() -> None:
        ledger = Spent(990)
        g = gate(tmp_path, ledger, llm_tokens_per_day=1000)
        assert (await g.acquire("a", 0)).granted
        await g.release("a", outcome("answered", 10))
        refused = await g.acquire("b", 0)
        assert not refused.granted
        assert "budget" in refused.reason
        assert ledger.asked == [DAY]  # Once, from midnight on.

    asyncio.run(go())


def test_failures_degrade_and_fail_the_health_and_it_recovers_with_the_window(tmp_path: Path) -> None:
    async def go() -> None:
        clock = Clock()
        g = gate(tmp_path, clock=clock, health_window_s=60, llm_breaker_failures=3, llm_breaker_open_s=10)
        for n, result in enumerate(["answered", "answered", "answered", "unusable"]):
            await g.acquire(str(n), 0)
            await g.release(str(n), outcome(result))
        health = await g.health()
        assert (len(health.issues), health.failing) == (1, False)
        for n in range(10, 14):
            await g.acquire(str(n), 0)
            await g.release(str(n), outcome("failed"))
        health = await g.health()
        assert (len(health.issues), health.failing) == (2, True)
        assert "left alone" in health.issues[1]
        clock.now += 61
        health = await g.health()
        assert not health.failing
        assert (await g.acquire("probe", 0)).granted
        await g.release("probe", outcome("answered"))
        assert (await g.health()).issues == ()

    asyncio.run(go())


def test_stats_tell_whether_there_is_a_model_and_what_it_cost(tmp_path: Path) -> None:
    async def go() -> None:
        g = gate(tmp_path)
        await g.acquire("a", 0)
        await g.release("a", ModelOutcome(result="answered", tokens=700, cost_usd=0.01, latency_s=2.0, calls=1))
        counts = (await g.stats()).counts
        assert (counts["llm.configured"], counts["llm.tokens"], counts["llm.cost_usd"], counts["llm.latency_s"]) == (1, 700, 0.01, 2.0)
        assert (counts["llm.under_way"], counts["llm.breaker_open"], counts["llm.tokens_today"]) == (0, 0, 700)

    asyncio.run(go())
