"""Followed logs: one reader per log, a bounded number, handed out once."""

from __future__ import annotations

import asyncio
from typing import Any

from attr_actors.actors.followed_logs import FollowedLogs
from attr_actors.errors import NotFound


class Reader:
    """Counts the goes of each log; a go ends when the gate opens."""

    def __init__(self) -> None:
        self.goes: list[tuple[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: NotFound | None = None

    async def __call__(self, path: str, known: Any) -> Any:
        await self.gate.wait()
        if self.fault:
            raise self.fault
        self.goes.append((path, known))
        return (known or 0) + 1


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_each_go_continues_the_last_one_and_the_state_is_handed_out_once() -> None:
    async def body() -> None:
        reader = Reader()
        logs = FollowedLogs(reader, 8)
        for _ in range(3):
            logs.read_on("/a")
            await settle()
        assert reader.goes == [("/a", None), ("/a", 1), ("/a", 2)]
        assert await logs.take("/a") == 3
        assert await logs.take("/a") is None

    asyncio.run(body())


def test_a_log_is_read_by_one_task_at_a_time_and_taking_it_waits() -> None:
    async def body() -> None:
        reader = Reader()
        reader.gate.clear()
        logs = FollowedLogs(reader, 8)
        logs.read_on("/a")
        await settle()
        logs.read_on("/a")
        taken = asyncio.create_task(logs.take("/a"))
        await settle()
        assert not taken.done()
        reader.gate.set()
        assert await taken == 1
        assert len(reader.goes) == 1

    asyncio.run(body())


def test_the_log_that_was_not_written_to_for_longest_is_dropped() -> None:
    async def body() -> None:
        logs = FollowedLogs(Reader(), 2)
        for path in ("/a", "/b", "/a", "/c"):
            logs.read_on(path)
            await settle()
        assert [await logs.take(path) for path in ("/a", "/b", "/c")] == [2, None, 1]

    asyncio.run(body())


def test_none_are_followed_when_the_limit_is_zero_and_a_fault_is_forgotten() -> None:
    async def body() -> None:
        reader = Reader()
        off = FollowedLogs(reader, 0)
        off.read_on("/a")
        assert await off.take("/a") is None
        reader.fault = NotFound("gone")
        logs = FollowedLogs(reader, 8)
        logs.read_on("/a")
        assert await logs.take("/a") is None

    asyncio.run(body())
