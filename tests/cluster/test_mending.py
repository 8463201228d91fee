"""Actors that died for good, because their constructor failed: Ray does not restart these."""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Callable
from typing import TextIO

import pytest
import ray

from attr_actors.actors.cluster import find_actors, mend_actors, open_actors
from attr_actors.errors import Unavailable
from attr_actors.settings import Settings

Make = Callable[..., Settings]


def until(accept: Callable[[], bool], what: str, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not accept():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}"
        time.sleep(0.05)


def is_there(settings: Settings) -> bool:
    try:
        ray.get_actor("ledger", settings.ray_namespace)
    except ValueError:
        return False
    return True


def takes(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_ledger_that_found_its_lock_taken_is_brought_back_and_the_other_actors_are_left_alone(cluster_settings: Make) -> None:
    settings = cluster_settings(ledger_lock_wait_s=0.2, call_timeout_s=60)
    actors = open_actors(settings)
    tracker_pid = asyncio.run(actors.tracker.health()).pid
    ray.kill(ray.get_actor("ledger", settings.ray_namespace), no_restart=True)
    with open(settings.ledger_file + ".lock") as lock:
        until(lambda: takes(lock), "the lock of the dead ledger")
        mend_actors(settings)
        until(lambda: not is_there(settings), "the ledger that cannot have the lock to be gone")
        with pytest.raises(Unavailable):
            asyncio.run(find_actors(settings).ledger.health())
    mend_actors(settings)
    assert asyncio.run(find_actors(settings).ledger.health()).name == "ledger"
    assert asyncio.run(find_actors(settings).tracker.health()).pid == tracker_pid
