"""Notifiers on a real Ray: started with the plan, brought back after kills, drained at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

from attr_actors.actors.cluster import find_actors, open_actors, stop_actors
from attr_actors.core.entries import entries_of, entry_key
from attr_actors.errors import BusyError
from attr_actors.handles import Actors
from attr_actors.settings import Settings
from tests.delivering import numbered
from tests.elasticsearch_twin import ElasticsearchTwin
from tests.slack_twin import CHANNEL, TOKEN, SlackTwin

Make = Callable[..., Settings]
QUICK = {"sink_timeout_s": 1, "outbox_lease_s": 4, "outbox_poll_interval_s": 0.1, "outbox_backoff_max_s": 1}


async def record(actors: Actors, first: int, last: int) -> None:
    """Record answers as a caller does: what fails is asked again."""
    for number in range(first, last):
        while not await try_to_record(actors, number):
            pass


async def try_to_record(actors: Actors, number: int) -> bool:
    try:
        await actors.ledger.record((numbered(number),))
    except BusyError:
        return False
    return True


async def health_pids(actors: Actors) -> list[int]:
    asked = [handle.health() for name, handle in actors.named.items() if name == "ledger" or name.startswith("notifier-")]
    return [health.pid for health in await asyncio.gather(*asked)]


def test_kills_of_ledger_and_notifiers_lose_and_double_nothing(cluster_settings: Make) -> None:
    elastic, slack = ElasticsearchTwin(), SlackTwin()
    with elastic.serving(), slack.serving():
        settings = cluster_settings(
            dataflow_index="i",
            elasticsearch_url=elastic.url,
            slack_bot_token=TOKEN,
            slack_channel=CHANNEL,
            slack_base_url=slack.base_url,
            **QUICK,
        )
        actors = open_actors(settings)

        async def flow() -> None:
            for kill in range(6):
                writing = asyncio.create_task(record(actors, kill * 20, kill * 20 + 20))
                victims = await health_pids(actors)
                os.kill(victims[kill % 3], signal.SIGKILL)
                await writing
            deadline = time.monotonic() + 60
            while True:
                counts = (await actors.ledger.stats()).counts
                if not sum(v for name, v in counts.items() if name.startswith("outbox.") and name.endswith((".waiting", ".leased"))):
                    return
                assert time.monotonic() < deadline, counts
                await asyncio.sleep(0.1)

        asyncio.run(flow())
        assert set(elastic.documents) == {entry_key(entry) for n in range(120) for entry in entries_of(numbered(n))}
        told = sorted(int(m["text"].split("`")[1]) for m in slack.messages)
        assert sorted(set(told)) == list(range(0, 120, 10))
        assert len(told) <= 12 + 6, "one repeat per kill at most"


def test_stopping_the_actors_delivers_what_is_due_first(cluster_settings: Make) -> None:
    elastic = ElasticsearchTwin()
    with elastic.serving():
        settings = cluster_settings(dataflow_index="i", elasticsearch_url=elastic.url, outbox_poll_interval_s=3600)
        open_actors(settings)
        actors = find_actors(settings)

        async def write() -> None:
            # Answered health means that the first look at an empty outbox has begun; the next is an hour away.
            await actors.named["notifier-elasticsearch"].health()
            await record(actors, 0, 30)

        asyncio.run(write())
        stop_actors(settings)
        assert len(elastic.documents) == 30
