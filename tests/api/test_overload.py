"""A storm of cold paths: every request is answered or refused with the time to wait, and what is at hand stays fast."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from attr_actors.actors.in_process import LocalActors
from attr_actors.settings import Settings
from serve_app import answers
from serve_app.door import Door
from tests.api.conftest import OOM_LOG

STORM = int(os.environ.get("ATTR_ACTORS_STORM", "200"))
"""Distinct cold paths asked for at once; raise it for a longer trial."""


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    actors = LocalActors(settings)
    transport = httpx.ASGITransport(Door(settings, actors.handles))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
        yield client
    await actors.stop()


def test_a_storm_of_cold_paths_is_answered_or_refused_and_none_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    root.mkdir()
    settings = Settings.load(
        allowed_root=str(root),
        cache_file=str(tmp_path / "l.db"),
        flights_max=64,
        rate_limit_analyze="1000000/minute",
        answer_cache_age_max_s=0.1,  # What is known is asked for again from the busy analyzers, too.
    )
    paths = [root / f"{number}.log" for number in range(STORM)]
    for path in paths:
        path.write_text(OOM_LOG)

    async def ask(client: httpx.AsyncClient, path: Path, patience: int) -> int:
        """Ask as a client of the contract does: 503 means to wait as told and ask again."""
        for _ in range(patience):
            reply = await client.get("/logs", params={"log_path": str(path)})
            statuses[reply.status_code] += 1
            if reply.status_code != 503:
                return reply.status_code
            assert int(reply.headers["retry-after"]) >= 1
            await asyncio.sleep(max(0.05, STORM / 1000))  # The test's seconds are short; a big storm needs longer ones.
        return 503

    async def trial() -> list[float]:
        waits = []
        async with client_of(settings) as client:
            kept = root / "kept.log"
            kept.write_text(OOM_LOG)
            assert await ask(client, kept, 1) == 200
            storm = asyncio.gather(*(ask(client, path, 10_000) for path in paths))
            while not storm.done():
                started = time.perf_counter()
                assert (await client.get("/logs", params={"log_path": str(kept)})).status_code == 200
                assert (await client.get("/healthz")).status_code == 200
                waits.append(time.perf_counter() - started)
                await asyncio.sleep(0.03)
            assert set(await storm) == {200}
        return sorted(waits)

    statuses: Counter[int] = Counter()
    waits = asyncio.run(trial())
    assert set(statuses) == {200, 503}  # The queues were full: without a refusal the trial would tell nothing.
    assert statuses[200] == STORM + 1
    print(f"\n{STORM} cold paths: {dict(statuses)}; kept answer and health meanwhile: p50 {waits[len(waits) // 2] * 1000:.0f} ms")


def test_many_who_ask_for_one_reply_at_once_ask_the_actors_once_and_pay_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "JOIN_S", 60)  # A busy machine is no failure.
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "a.log"
    log.write_text(OOM_LOG)
    settings = Settings.load(allowed_root=str(log.parent), cache_file=str(tmp_path / "l.db"), rate_limit_analyze="1000/hour")

    async def trial() -> None:
        async with client_of(settings) as client:
            replies = await asyncio.gather(*(client.get("/logs", params={"log_path": str(log)}) for _ in range(50)))
            assert {reply.status_code for reply in replies} == {200}
            assert len({reply.content for reply in replies}) == 1
            stats = (await client.get("/stats")).json()
            assert stats["cache"]["replica_hits"] == 49
            assert (stats["compute"]["completed"], stats["cache"].get("hits", 0)) == (1, 0)
            last = await client.get("/logs", params={"log_path": str(log)})
            assert last.headers["x-ratelimit-remaining"] == "998"  # The first and this one.

    asyncio.run(trial())
