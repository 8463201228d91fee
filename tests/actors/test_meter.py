"""Figures of all replicas, summed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from attr_actors.actors import meter as meter_module
from attr_actors.actors.meter import SILENT_S, Meter
from attr_actors.models import Figures
from attr_actors.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(tmp_path: Path, clock: Clock) -> Meter:
    return Meter(Settings.load(allowed_root=str(tmp_path)), clock)


def report(meter: Meter, source: str, hits: float, kept: float = 0) -> None:
    asyncio.run(meter.report(Figures(source=source, counts={"hits": hits}, gauges={"kept": kept})))


def counts(meter: Meter) -> dict[str, float]:
    return asyncio.run(meter.stats()).counts


def test_a_report_that_comes_twice_or_late_counts_once(meter: Meter) -> None:
    for hits in (5, 5, 7):
        report(meter, "a", hits)
    report(meter, "b", 1)
    assert counts(meter)["hits"] == 8


def test_the_counters_of_a_replica_that_is_gone_stay_and_its_gauges_do_not(meter: Meter, clock: Clock) -> None:
    report(meter, "a", 5, kept=100)
    clock.now += SILENT_S + 1
    report(meter, "b", 1, kept=10)
    found = counts(meter)
    assert (found["hits"], found["kept"], found["actors.replicas"]) == (6, 10, 1)


def test_sums_never_fall_when_the_oldest_sources_are_merged(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "SOURCES_MAX", 2)
    for number in range(5):
        report(meter, str(number), 1)
        assert counts(meter)["hits"] == number + 1
