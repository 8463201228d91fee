"""The logs that one look does not read through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class LongLogs:
    """Has long logs read on, a look at a time and in turn, so that none of them holds up another.

    A log comes again by ``add()`` when its look was taken in and there is more; one whose look failed waits for the next round.
    """

    def __init__(self, read_on: Callable[[str], Awaitable[None]]) -> None:
        self._read_on = read_on
        self._waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, path: str) -> None:
        """Let a log have its turn; needs a running loop."""
        self._waiting.setdefault(path)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._go())

    def discard(self, path: str) -> None:
        """Take a log out that was read through or is not tracked any more."""
        self._waiting.pop(path, None)

    async def stop(self) -> None:
        """Begin no further look."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _go(self) -> None:
        while self._waiting:
            path = next(iter(self._waiting))
            del self._waiting[path]
            began = time.monotonic()
            await self._read_on(path)
            await asyncio.sleep(time.monotonic() - began)  # Half of the time is for others who use the disk and the processor.
