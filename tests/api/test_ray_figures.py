"""What is published among Ray's metrics, and by whom."""

from __future__ import annotations

import asyncio

import pytest

from attr_actors.core.exposition import Metric
from attr_actors.errors import Unavailable
from serve_app import ray_figures
from serve_app.ray_figures import Gauge, RayFigures

Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Publishing:
    """A publisher over counters that a test changes."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = {"http.result.200": 3, "verdicts.cuda_oom.STOP": 1, "odd.thing": 7}
        self.is_mine = True
        self.fault: Exception | None = None
        self.asked = 0
        self.opened: list[str] = []
        self.shown: Shown = {}
        self.figures = RayFigures(self._count, self._open, lambda: self.is_mine)

    async def _count(self) -> dict[str, float]:
        self.asked += 1
        if self.fault:
            raise self.fault
        return dict(self.counters)

    def _open(self, metric: Metric) -> Gauge:
        self.opened.append(metric.name)

        def show(value: float, tags: dict[str, str]) -> None:
            self.shown[metric.name, tuple(tags.items())] = value

        return show


WANTED: Shown = {
    ("attr_http_requests_total", (("route", "result"), ("status", "200"))): 3,
    ("attr_verdicts_total", (("category", "cuda_oom"), ("action", "STOP"))): 1,
}


def test_each_family_is_a_gauge_with_its_labels_and_is_set_more_often_than_the_actors_are_asked() -> None:
    publishing = Publishing()

    async def main() -> None:
        for _ in range(3):
            publishing.shown = {}
            await publishing.figures.publish()
            assert publishing.shown == WANTED

    asyncio.run(main())
    assert (publishing.asked, len(publishing.opened)) == (1, 2)


def test_a_replica_that_does_not_speak_for_all_asks_nobody() -> None:
    publishing = Publishing()
    publishing.is_mine = False
    asyncio.run(publishing.figures.publish())
    assert (publishing.asked, publishing.shown) == (0, {})


def test_figures_that_cannot_be_had_are_not_shown_and_an_outage_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_figures, "SET_S", 0.001)
    monkeypatch.setattr(ray_figures, "ASK_S", 0.0)
    publishing = Publishing()

    async def until_asked(times: int) -> None:
        for _ in range(10_000):
            if publishing.asked >= times:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("nobody was asked")

    async def main() -> None:
        running = asyncio.create_task(publishing.figures.run())
        await until_asked(2)
        publishing.fault = Unavailable("the meter is restarting")
        await until_asked(publishing.asked + 1)
        publishing.shown = {}
        await until_asked(publishing.asked + 5)
        assert publishing.shown == {}
        publishing.fault = None
        await until_asked(publishing.asked + 3)
        assert publishing.shown == WANTED
        running.cancel()

    asyncio.run(main())
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
