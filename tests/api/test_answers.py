"""The replies that a replica keeps: who waits for one that another request is having made, and who does not."""

from __future__ import annotations

import asyncio

import pytest

from attr_actors.models import Analysis
from attr_actors.settings import Settings
from serve_app import answers
from serve_app.answers import AnswerCache
from tests.answers import analysis

KEY = (None, b"log_path=/logs/a.log")


@pytest.fixture
def cache(tmp_path) -> AnswerCache:  # type: ignore[no-untyped-def]
    return AnswerCache(Settings.load(allowed_root=str(tmp_path)))


@pytest.fixture
def basis() -> Analysis:
    return analysis("/logs/a.log")


def test_all_who_wait_get_the_reply_as_soon_as_it_is_made(cache: AnswerCache, basis: Analysis) -> None:
    async def trial() -> None:
        with cache.making(KEY):
            waiting = [asyncio.create_task(cache.join(KEY)) for _ in range(5)]
            await asyncio.sleep(0)
            cache.keep(KEY, b"body", basis)
        assert [answer and answer.body for answer in await asyncio.gather(*waiting)] == [b"body"] * 5

    asyncio.run(trial())


def test_nobody_waits_where_no_reply_is_being_made(cache: AnswerCache, basis: Analysis) -> None:
    async def trial() -> None:
        cache.keep((None, b"another"), b"body", basis)
        assert await cache.join(KEY) is None

    asyncio.run(trial())


def test_a_request_that_fails_lets_those_who_wait_ask_themselves(cache: AnswerCache) -> None:
    async def trial() -> None:
        async def fail() -> None:
            with cache.making(KEY):
                await asyncio.sleep(0)
                raise ConnectionError

        failing = asyncio.create_task(fail())
        await asyncio.sleep(0)
        assert await cache.join(KEY) is None
        with pytest.raises(ConnectionError):
            await failing
        assert await cache.join(KEY) is None  # Nothing is left of it.

    asyncio.run(trial())


def test_a_reply_that_takes_long_is_not_waited_for_to_its_end(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "JOIN_S", 0.01)

    async def trial() -> None:
        with cache.making(KEY):
            assert await cache.join(KEY) is None

    asyncio.run(trial())


def test_of_two_who_have_a_reply_made_the_first_is_waited_for(cache: AnswerCache) -> None:
    """The second waited in vain, and must neither end the first's making nor hold up the others."""

    async def trial() -> None:
        with cache.making(KEY):
            with cache.making(KEY):
                pass
            waiting = asyncio.create_task(cache.join(KEY))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting is None

    asyncio.run(trial())


@pytest.mark.parametrize("off", ["answer_cache_bytes_max", "answer_cache_age_max_s"])
def test_nobody_waits_where_nothing_is_kept(tmp_path, off: str) -> None:  # type: ignore[no-untyped-def]
    cache = AnswerCache(Settings.load(allowed_root=str(tmp_path), **{off: 0}))

    async def trial() -> None:
        with cache.making(KEY):
            waiting = asyncio.create_task(cache.join(KEY))
            await asyncio.sleep(0)
            assert waiting.done()
            assert await waiting is None

    asyncio.run(trial())
