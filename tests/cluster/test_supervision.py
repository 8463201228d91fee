"""The supervision plan on a real Ray: one set of actors for everybody, replaced and recovered without loss."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from attr_actors import tracing
from attr_actors.actors.cluster import find_actors, open_actors, plan, stop_actors
from attr_actors.errors import AttrError, NotFound, Unavailable
from attr_actors.handles import pick
from attr_actors.models import AnalyzeRequest, Submission
from attr_actors.settings import Settings
from tests.api.conftest import OOM_LOG

Make = Callable[..., Settings]


def write(settings: Settings, name: str) -> str:
    path = Path(settings.allowed_root, name)
    path.write_text(OOM_LOG)
    return str(path)


def pids(settings: Settings) -> dict[str, int]:
    actors = find_actors(settings)

    async def ask() -> dict[str, int]:
        healths = [await actors.ledger.health(), await actors.tracker.health(), *[await a.health() for a in actors.analyzers]]
        return {h.name: h.pid for h in healths}

    return asyncio.run(ask())


def test_opening_twice_gives_the_same_actors(cluster_settings: Make) -> None:
    settings = cluster_settings()
    open_actors(settings)
    before = pids(settings)
    open_actors(settings)
    assert pids(settings) == before
    assert {"ledger", "tracker", "analyzer-0", "analyzer-1"} <= set(before)


def test_many_programs_opening_at_once_get_one_set(cluster_settings: Make) -> None:
    settings = cluster_settings()

    @ray.remote(num_cpus=0)
    def program(given: Settings) -> int:
        return len(open_actors(given).analyzers)

    assert ray.get([program.remote(settings) for _ in range(4)], timeout=90) == [2, 2, 2, 2]
    found = [a for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == settings.ray_namespace]
    assert sorted(a["name"] for a in found) == sorted(spec.name for spec in plan(settings))


def test_other_settings_replace_the_actors_and_keep_the_answers(cluster_settings: Make) -> None:
    old = cluster_settings(cluster_name="old")
    path = write(old, "a.log")
    open_actors(old)
    first = asyncio.run(pick(find_actors(old).analyzers, path).analyze(AnalyzeRequest(path=path)))
    before = pids(old)
    new = cluster_settings(cluster_name="new")
    actors = open_actors(new)
    assert not set(before.values()) & set(pids(new).values())
    stored = asyncio.run(actors.ledger.lookup(path))
    assert stored is not None
    assert stored.result_id == first.result_id


def test_a_killed_actor_is_back_for_the_next_call_with_what_it_acknowledged(cluster_settings: Make) -> None:
    settings = cluster_settings()
    actors = open_actors(settings)
    path = write(settings, "a.log")

    async def flow() -> None:
        await actors.tracker.submit(Submission(path=path, user="ann", job_id="7"))
        first = await pick(actors.analyzers, path).analyze(AnalyzeRequest(path=path))
        for victim in ("ledger", "tracker", "analyzer-0", "analyzer-1"):
            os.kill((await asyncio.to_thread(pids, settings))[victim], signal.SIGKILL)
            job = await actors.tracker.find(path)
            assert job is not None
            assert job.user == "ann"
            again = await pick(actors.analyzers, path).analyze(AnalyzeRequest(path=path))
            assert again.result_id == first.result_id

    asyncio.run(flow())


def test_errors_arrive_typed_with_a_message_for_people(cluster_settings: Make) -> None:
    settings = cluster_settings()
    actors = open_actors(settings)
    missing = f"{settings.allowed_root}/missing.log"
    with pytest.raises(NotFound) as caught:
        asyncio.run(pick(actors.analyzers, missing).analyze(AnalyzeRequest(path=missing)))
    assert caught.value.message == f"log file not found: '{missing}'"
    assert isinstance(caught.value, AttrError)


def test_without_the_actors_a_call_is_unavailable_at_once(cluster_settings: Make) -> None:
    settings = cluster_settings()
    open_actors(settings)
    handle = find_actors(settings).ledger
    stop_actors(settings)
    with pytest.raises(Unavailable):
        asyncio.run(handle.lookup("/x"))


def test_no_secret_is_in_what_ray_shows_of_the_actors(cluster_settings: Make) -> None:
    settings = cluster_settings(slack_bot_token="xoxb-very-secret", nvidia_api_key="nvapi-very-secret", slack_channel="#a")
    open_actors(settings)
    assert "very-secret" not in str(ray.util.list_named_actors(all_namespaces=True))


def test_actors_take_part_in_traces_only_where_that_is_asked_for(cluster_settings: Make) -> None:
    off, on = (cluster_settings(analyzers=1, traces_url=url) for url in ("", "http://127.0.0.1:9/v1/traces"))

    def has_method(settings: Settings) -> set[bool]:
        return {hasattr(ray.get_actor(spec.name, settings.ray_namespace), "traced_call") for spec in plan(settings)}

    async def ask(settings: Settings) -> None:
        """Call inside a trace: a sync actor, an async one, and one that calls another."""
        path = write(settings, "a.log")
        with tracing.request("GET /logs", {}, {}):
            assert tracing.carrier()
            actors = find_actors(settings)
            assert (await actors.ledger.health()).name == "ledger"
            assert (await pick(actors.analyzers, path).analyze(AnalyzeRequest(path=path))).cycles
            with pytest.raises(NotFound):
                await actors.analyzers[0].analyze(AnalyzeRequest(path=path + "x"))

    tracing.start(on, "test")
    try:
        open_actors(off)
        assert has_method(off) == {False}
        asyncio.run(ask(off))  # As while a service is switched over.
        open_actors(on)
        assert has_method(on) == {True}
        asyncio.run(ask(on))
    finally:
        tracing.stop()
