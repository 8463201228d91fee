"""Ledger, notifiers and sinks in one process, seeded, with crashes at every step.

A step is anything after which a process can die: before and after each call of the ledger, and before, inside and after
each delivery. The invariants are those of the architecture: what was acknowledged is found again after any crash; every
entry reaches every sink that wants it once the sink recovers; Elasticsearch holds each entry once, with its newest
content; Slack hears of each STOP, and again only where the success of the message could not be noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from attr_actors.actors.ledger import Ledger
from attr_actors.actors.notifier import Notifier
from attr_actors.core.entries import entries_of, entry_key
from attr_actors.errors import SinkError, Unavailable
from attr_actors.models import Action, Analysis, Delivery, Outcome, Recording
from attr_actors.settings import Settings
from tests.answers import attribution, recording
from tests.ledgers import Clock, settings

SINKS = ("elasticsearch", "slack", "webhook")


class Crash(BaseException):
    """The process is gone at this instant."""


class World:
    """What outlives the processes: the file, the outside, the clock, and what clients were told."""

    def __init__(self, seed: int, place: Path) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.settings = settings(
            place, dataflow_index="i", slack_bot_token="t", slack_channel="c", export_url="http://h/", cache_grace_period_seconds=0
        )
        self.ledger: Ledger | None = Ledger(self.settings, self.clock)
        self.down: set[str] = set()
        self.calm = False
        self.told: dict[str, Analysis] = {}
        self.records: dict[str, str] = {}
        self.messages: Counter[str] = Counter()
        self.noted: set[int] = set()
        """Deliveries whose success is in the ledger: none of them may ever be sent again."""
        self.crashes = 0
        self.violations: list[str] = []
        """Kept here because an exception in a sink is just one more failure to a notifier."""

    def step(self) -> None:
        """A point at which this process may die."""
        if not self.calm and self.chance.random() < 0.03:
            self.crashes += 1
            raise Crash

    def kill_ledger(self) -> None:
        if self.ledger is not None:
            # A killed process closes its files without a word; SQLite recovers from the write-ahead log at the next open.
            self.ledger._db.file._connection.close()
            self.ledger._db.file._lock.release()
            self.ledger = None

    def revive_ledger(self) -> Ledger:
        if self.ledger is None:
            self.ledger = Ledger(self.settings, self.clock)
        return self.ledger


class Handle:
    """A handle as Ray gives it: a call to a dead ledger says so, and whether it was carried out stays open."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        async def call(*args: object) -> object:
            await asyncio.sleep(0)
            world = self._world
            try:
                world.step()
                result = getattr(world.revive_ledger(), name)(*args)
                if name == "settle":
                    (outcomes,) = args
                    world.noted.update(o.delivery_id for o in outcomes if o.state == "done")  # type: ignore[attr-defined]
                world.step()
            except Crash:
                world.kill_ledger()
                raise Unavailable("the ledger is restarting") from None
            return result

        return call


class SimulatedSink:
    """An outside system that is down at times, loses replies, and dies with its notifier in the middle."""

    counts: Mapping[str, float] = MappingProxyType({})

    def __init__(self, name: str, world: World) -> None:
        self.name, self._world = name, world
        self.batch_max = 1 if name == "slack" else 7

    async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        world = self._world
        await asyncio.sleep(0)
        if self.name in world.down:
            raise SinkError("connection refused", world.chance.choice([None, 30.0]))
        outcomes = []
        for delivery in deliveries:
            world.step()
            if not world.calm and world.chance.random() < 0.05:
                outcomes.append(Outcome(delivery_id=delivery.delivery_id, state="retry", reason="429"))
                continue
            self._take(delivery)
            outcomes.append(Outcome(delivery_id=delivery.delivery_id, state="done", receipt="ts"))
            if not world.calm and world.chance.random() < 0.05:
                raise SinkError("the reply was lost")
        world.step()
        return tuple(outcomes)

    def _take(self, delivery: Delivery) -> None:
        key = entry_key(delivery.entry)
        if delivery.delivery_id in self._world.noted:
            self._world.violations.append(f"{self.name} got {key} again after its success was noted")
        if self.name == "slack":
            if delivery.entry.attribution.action is not Action.STOP:
                self._world.violations.append(f"Slack got {key}, which is no STOP")
            self._world.messages[key] += 1
        else:
            self._world.records[f"{self.name} {key}"] = delivery.entry.attribution.model_dump_json()

    async def close(self) -> None:
        pass


class MortalNotifier(Notifier):
    """A notifier whose process dies of a Crash and is started again, as Ray does."""

    async def _run(self) -> None:
        with contextlib.suppress(Crash):
            await super()._run()


def make_recording(world: World, number: int) -> Recording:
    """Return an answer for one of few logs, so that answers are repeated, refreshed and superseded."""
    path = f"/logs/{number % 12}.log"
    signature = world.chance.choice(["cuda_oom", "bad_config"])
    cycles = [attribution(world.chance.choice(list(Action)), signature) for _ in range(world.chance.randrange(1, 4))]
    return recording(path, *cycles, job_id=path, size=world.chance.choice([1, 1, 1, number]), mtime_ns=10**18, at=world.clock.now)


async def live(world: World) -> None:
    """Let clients, crashes and outages happen, then calm, and wait until nothing is owed."""
    handle: Any = Handle(world)

    def make_sink(name: str, chosen: Settings) -> SimulatedSink:
        return SimulatedSink(name, world)

    def start(name: str) -> MortalNotifier:
        return MortalNotifier(world.settings, handle, name, make_sink, world.clock, world.clock.sleep, world.chance.random)

    def supervise() -> None:
        notifiers.update({name: start(name) for name, notifier in notifiers.items() if notifier._loop.done()})

    notifiers = {name: start(name) for name in SINKS}
    for number in range(100):
        made = make_recording(world, number)
        with contextlib.suppress(Unavailable):
            await handle.record((made,))
            world.told[made.analysis.snapshot.path] = made.analysis
        world.down ^= {world.chance.choice(SINKS)} if world.chance.random() < 0.1 else set()
        supervise()
        for _ in range(world.chance.randrange(8)):
            await asyncio.sleep(0)
        check_answers(world, made)
    world.calm, world.down = True, set()
    async with asyncio.timeout(30):
        while any(world.revive_ledger().stats().counts[f"outbox.{s}.{state}"] for s in SINKS for state in ("waiting", "leased", "parked")):
            supervise()
            for _ in range(50):
                await asyncio.sleep(0)
    for notifier in notifiers.values():
        await notifier.drain(5)


def check_answers(world: World, newest: Recording) -> None:
    """What was acknowledged is found again; a call that failed may have been carried out, and is repeated by its client."""
    ledger = world.revive_ledger()
    for path, analysis in world.told.items():
        found = ledger.lookup(path)
        assert found is not None
        assert found == analysis or found == newest.analysis
        if found != analysis:
            world.told[path] = found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory where there is one: processes die here, not machines, and flushes would be most of the time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as made:
        yield Path(made)


@pytest.mark.parametrize("seed", range(6))
def test_no_crash_loses_or_doubles_a_delivery(seed: int, place: Path) -> None:
    world = World(seed, place)
    asyncio.run(live(world))
    assert world.violations == [], f"seed {seed}"
    assert world.crashes > 5, "a simulation without crashes proves nothing"
    ledger = world.revive_ledger()
    stops = set()
    for stored in ledger._db.recordings():
        for entry in entries_of(stored):
            key = entry_key(entry)
            content = entry.attribution.model_dump_json()
            assert world.records.get(f"elasticsearch {key}") == content, f"seed {seed}"
            assert world.records.get(f"webhook {key}") == content, f"seed {seed}"
            if entry.attribution.action is Action.STOP:
                stops.add(key)
                assert world.messages[key] >= 1, f"seed {seed}: a STOP was never told"
    assert stops
    assert world.told
    ledger.close()
