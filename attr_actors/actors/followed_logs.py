"""The growing logs that an analyzer reads along with, for progressive jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from attr_actors.core.following import Following
from attr_actors.errors import AttrError

ReadOn = Callable[[str, Following | None], Awaitable[Following]]


class FollowedLogs:
    """Keeps what was read of each log, at most ``most`` of them; a log is read by one task at a time."""

    def __init__(self, read_on: ReadOn, most: int) -> None:
        self._read_on = read_on
        self._most = most
        self._logs: dict[str, asyncio.Task[Following | None]] = {}

    def read_on(self, path: str) -> None:
        """Start reading what was appended to a log, unless that is under way."""
        task = self._logs.pop(path, None)
        if task is not None and not task.done():
            self._logs[path] = task
            return
        while self._logs and len(self._logs) >= self._most:  # Those that were not written to for longest go first.
            self._logs.pop(next(iter(self._logs)))
        if self._most:
            self._logs[path] = asyncio.create_task(self._go(path, task.result() if task else None))

    async def take(self, path: str) -> Following | None:
        """Hand out what was read of a log, if it is followed; it is not followed any more."""
        task = self._logs.pop(path, None)
        return await task if task else None

    async def _go(self, path: str, known: Following | None) -> Following | None:
        try:
            return await self._read_on(path, known)
        except AttrError:  # Gone, closed or too slow: its analysis will say so.
            return None
