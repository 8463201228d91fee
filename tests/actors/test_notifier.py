"""The notifier over a real ledger and scripted sinks, on a clock by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from attr_actors.actors.ledger import Ledger
from attr_actors.actors.notifier import ROUND_PAUSE_MAX_S, Notifier
from attr_actors.errors import BadSettings, LedgerFault, SinkError, SinkRejected, Unavailable
from attr_actors.models import Delivery, Outcome
from attr_actors.settings import Settings
from tests.answers import recording
from tests.ledgers import Clock, InProcess, settings, until

Answer = Callable[[tuple[Delivery, ...]], tuple[Outcome, ...]]


class ScriptedSink:
    """Takes everything unless ``script`` holds what to do with the next batches."""

    name = "own"
    counts: Mapping[str, float] = MappingProxyType({"own.sent": 1})

    def __init__(self, batch_max: int = 10) -> None:
        self.batch_max = batch_max
        self.script: list[Exception | Answer] = []
        self.broken: Exception | None = None
        self.taken: list[str] = []
        self.sizes: list[int] = []
        self.closed = False

    async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        self.sizes.append(len(deliveries))
        step = self.script.pop(0) if self.script else self.broken
        if isinstance(step, Exception):
            raise step
        if step is not None:
            return step(deliveries)
        self.taken += [d.entry.snapshot.path for d in deliveries]
        return tuple(Outcome(delivery_id=d.delivery_id, state="done") for d in deliveries)

    async def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, chosen: Settings, sink: ScriptedSink) -> None:
        self.clock = Clock()
        self.ledger = Ledger(chosen, self.clock)
        self.sink = sink
        self.chosen = chosen
        self.handle: Any = InProcess(self.ledger)
        self.notifier = self.start()

    def start(self) -> Notifier:
        return Notifier(self.chosen, self.handle, "own", lambda name, chosen: self.sink, self.clock, self.clock.sleep, lambda: 0.5)

    def owed(self, state: str = "waiting") -> float:
        return self.ledger.stats().counts[f"outbox.own.{state}"]

    def nothing_owed(self) -> bool:
        return self.owed() == self.owed("leased") == 0


@contextlib.asynccontextmanager
async def world(tmp_path: Path, sink: ScriptedSink | None = None, **more: object) -> AsyncIterator[World]:
    made = World(settings(tmp_path, export_sinks="own", **more), sink or ScriptedSink())
    try:
        yield made
    finally:
        await made.notifier.drain(5)
        made.ledger.close()


def test_everything_owed_is_delivered_once_in_batches(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.ledger.record(tuple(recording(f"/{n}") for n in range(25)))
            await until(w.nothing_owed)
            assert sorted(w.sink.taken) == sorted(f"/{n}" for n in range(25))
            assert max(w.sink.sizes) <= 10
            counts = (await w.notifier.stats()).counts
            assert (counts["outbox.own.delivered"], counts["own.sent"]) == (25, 1)
            assert (await w.notifier.health()).issues == ()

    asyncio.run(run())


def test_outage_of_an_hour_delays_and_loses_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.sink.broken = SinkError("connection refused")
            w.ledger.record(tuple(recording(f"/{n}") for n in range(30)))
            started = w.clock.now
            await until(lambda: w.clock.now > started + 3600)
            assert len(w.sink.sizes) < 60, "a dead sink is tried rarely"
            assert set(w.sink.sizes[1:]) == {1}, "and with one delivery at a time"
            health = await w.notifier.health()
            assert (health.issues, health.failing) == (("connection refused; answers are served, deliveries wait",), True)
            w.sink.broken = None
            await until(w.nothing_owed)
            assert sorted(w.sink.taken) == sorted(f"/{n}" for n in range(30))
            health = await w.notifier.health()
            assert (health.issues, health.failing) == ((), False)

    asyncio.run(run())


def test_sink_that_says_when_to_come_back_is_obeyed(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.sink.script = [SinkError("rate limited", 777.0)]
            w.ledger.record((recording(),))
            started = w.clock.now
            await until(w.nothing_owed)
            assert w.clock.now - started >= 777

    asyncio.run(run())


def test_rejected_delivery_is_parked_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, ScriptedSink(batch_max=1)) as w:
            w.sink.script = [SinkRejected("will not have it")]
            w.ledger.record((recording("/a"), recording("/b")))
            await until(w.nothing_owed)
            assert w.sink.taken == ["/b"]
            assert w.owed("parked") == 1
            assert "will not have it" in (await w.notifier.health()).issues[0]

    asyncio.run(run())


def test_one_bad_delivery_does_not_hold_up_its_neighbours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def explode(deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        if any(d.entry.snapshot.path == "/bad" for d in deliveries):
            raise ZeroDivisionError
        sink.taken.extend(d.entry.snapshot.path for d in deliveries)
        return tuple(Outcome(delivery_id=d.delivery_id, state="done") for d in deliveries)

    sink = ScriptedSink()

    async def run() -> None:
        async with world(tmp_path, sink, outbox_attempts_max=4) as w:
            w.sink.script = [explode] * 60
            w.ledger.record((recording("/1"), recording("/bad"), recording("/2")))
            await until(lambda: w.owed("parked") == 1 and w.nothing_owed())
            assert sorted(w.sink.taken) == ["/1", "/2"]
            w.sink.script = []

    asyncio.run(run())
    assert sum("unexpected error at delivery" in r.message for r in caplog.records) == 1


def test_delivery_that_failed_often_enough_is_parked(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, outbox_attempts_max=3) as w:
            w.sink.broken = SinkError("no")
            w.ledger.record((recording(),))
            await until(lambda: w.owed("parked") == 1)
            assert len(w.sink.sizes) == 3

    asyncio.run(run())


def test_batch_refused_item_by_item_counts_as_a_failing_sink(tmp_path: Path) -> None:
    def busy(deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        return tuple(Outcome(delivery_id=d.delivery_id, state="retry", reason="429") for d in deliveries)

    async def run() -> None:
        async with world(tmp_path) as w:
            w.sink.script = [busy] * 5
            w.ledger.record(tuple(recording(f"/{n}") for n in range(30)))
            await until(w.nothing_owed)
            assert w.sink.sizes[:6] == [10, 1, 1, 1, 1, 1]
            assert len(w.sink.taken) == 30

    asyncio.run(run())


def test_sink_that_forgets_an_outcome_gets_the_delivery_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.sink.script = [lambda ds: tuple(Outcome(delivery_id=d.delivery_id, state="done") for d in ds[1:])]
            w.ledger.record((recording("/a"), recording("/b")))
            await until(w.nothing_owed)
            assert w.sink.taken == ["/a"]

    asyncio.run(run())


def test_ledger_that_restarts_costs_a_pause_and_no_delivery(tmp_path: Path) -> None:
    class Restarting(InProcess):
        broken = 0

        def __getattr__(self, name: str) -> Any:
            method = super().__getattr__(name)

            async def call(*args: object) -> object:
                if self.broken and name in ("lease", "settle"):
                    self.broken -= 1
                    raise LedgerFault("the disk is full")
                return await method(*args)

            return call

    async def run() -> None:
        async with world(tmp_path) as w:
            handle = Restarting(w.ledger)
            w.notifier._ledger = handle
            handle.broken = 3
            await until(lambda: handle.broken == 0)
            w.ledger.record((recording(),))
            await until(w.nothing_owed)
            assert (await w.notifier.health()).issues == ()

    asyncio.run(run())


@pytest.mark.parametrize("fault", [TimeoutError(), LedgerFault("the disk is full"), Unavailable("the ledger is restarting", 2.0)])
def test_ledger_that_is_away_for_long_is_asked_every_few_seconds(tmp_path: Path, fault: Exception) -> None:
    class Away(InProcess):
        refusals = 30

        def __getattr__(self, name: str) -> Any:
            method = super().__getattr__(name)

            async def call(*args: object) -> object:
                if name == "lease" and self.refusals:
                    self.refusals -= 1
                    raise fault
                return await method(*args)

            return call

    async def run() -> None:
        async with world(tmp_path) as w:
            handle = Away(w.ledger)
            w.notifier._ledger = handle  # type: ignore[assignment]
            await until(lambda: not handle.refusals and not w.notifier._issues)
            assert max(w.clock.slept) == ROUND_PAUSE_MAX_S, "so its issue is gone as soon after its return"

    asyncio.run(run())


def test_success_is_noted_through_a_restart_of_the_ledger_and_not_repeated(tmp_path: Path) -> None:
    class Restarting(InProcess):
        refusals = 3

        def __getattr__(self, name: str) -> Any:
            method = super().__getattr__(name)

            async def call(*args: object) -> object:
                if name == "settle" and self.refusals:
                    self.refusals -= 1
                    raise Unavailable("the ledger is restarting")
                return await method(*args)

            return call

    async def run() -> None:
        async with world(tmp_path) as w:
            w.notifier._ledger = Restarting(w.ledger)  # type: ignore[assignment]
            w.ledger.record((recording(),))
            await until(w.nothing_owed)
            assert w.sink.taken == ["/logs/a.log"]

    asyncio.run(run())


def test_sink_that_cannot_be_made_is_an_issue_and_not_a_crash(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            installed = False

            def make(name: str, chosen: Settings) -> ScriptedSink:
                if not installed:
                    raise BadSettings("no such sink")
                return w.sink

            await w.notifier.drain(5)
            w.ledger.record((recording(),))
            late = Notifier(w.chosen, w.handle, "own", make, w.clock, w.clock.sleep)
            await until(lambda: len(w.clock.slept) > 5)
            assert (await late.health()).issues == ("no such sink",)
            installed = True
            await until(w.nothing_owed)
            assert (await late.health()).issues == ()
            await late.drain(5)

    asyncio.run(run())


def test_killed_notifier_is_replaced_and_its_lease_runs_out(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.ledger.record((recording(),))
            w.notifier._loop.cancel()
            assert len(w.ledger.lease("own", 10, w.chosen.outbox_lease_s)) == 1
            leased_at = w.clock.now
            w.notifier = w.start()
            await until(w.nothing_owed)
            assert w.clock.now - leased_at >= w.chosen.outbox_lease_s
            assert w.sink.taken == ["/logs/a.log"]

    asyncio.run(run())


def test_drain_delivers_what_is_due_and_closes_the_sink(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.ledger.record(tuple(recording(f"/{n}") for n in range(35)))
            assert await w.notifier.drain(5)
            assert len(w.sink.taken) == 35
            assert w.sink.closed

    asyncio.run(run())


def test_drain_ends_within_its_bound_when_the_sink_hangs(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            never = asyncio.Event()

            async def hang(deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
                await never.wait()
                return ()

            w.sink.deliver = hang  # type: ignore[method-assign]
            w.ledger.record((recording(),))
            assert not await w.notifier.drain(0.05)
            assert w.owed("leased") == 1

    asyncio.run(run())
