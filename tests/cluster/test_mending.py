"""Actors that are gone for good, which Ray does not restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import ray

from attr_actors.actors.cluster import find_actors, mend_actors, open_actors
from attr_actors.settings import Settings

Make = Callable[..., Settings]


def is_there(settings: Settings, name: str) -> bool:
    try:
        ray.get_actor(name, settings.ray_namespace)
    except ValueError:
        return False
    return True


def test_an_actor_that_was_killed_for_good_is_brought_back_and_the_others_are_left_alone(cluster_settings: Make) -> None:
    settings = cluster_settings(call_timeout_s=60)
    actors = open_actors(settings)
    ledger_pid = asyncio.run(actors.ledger.health()).pid
    ray.kill(ray.get_actor("tracker", settings.ray_namespace), no_restart=True)
    deadline = time.monotonic() + 30
    while is_there(settings, "tracker"):
        assert time.monotonic() < deadline, "the killed tracker kept its name"
        time.sleep(0.05)
    mend_actors(settings)
    assert asyncio.run(find_actors(settings).tracker.health()).name == "tracker"
    assert asyncio.run(find_actors(settings).ledger.health()).pid == ledger_pid
