"""Jobs that change together are saved together: while one save is under way, the next ones collect."""

from __future__ import annotations

import asyncio

from attr_actors.errors import Unavailable
from attr_actors.handles import LedgerHandle

BATCH_MAX = 2000
"""Rows of one save: the ledger serves others in between."""


class JobWriter:
    """Writes job rows to the ledger in batches; ``settle()`` returns once a path's newest row is durable.

    A row whose save failed stays marked, so that a repeated request waits for it instead of trusting memory.
    """

    def __init__(self, ledger: LedgerHandle, timeout_s: float) -> None:
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._marked: dict[str, str | None] = {}
        self._saving: dict[str, str | None] = {}
        self._save: asyncio.Task[None] | None = None
        self.failed = False
        """Whether the last save failed."""

    def mark(self, path: str, row: str | None) -> None:
        """Note a path's newest row; None forgets it."""
        self._marked[path] = row

    def is_settled(self, path: str) -> bool:
        """Tell whether the path has nothing left to save."""
        return path not in self._marked and path not in self._saving

    async def settle(self, *paths: str) -> None:
        """Return when the paths have nothing left to save. Raises what the ledger raises, and Unavailable."""
        while not all(map(self.is_settled, paths)):
            await asyncio.shield(self._saved())

    async def settle_all(self) -> None:
        """Return when nothing is left to save."""
        while self._marked or self._saving:
            await asyncio.shield(self._saved())

    def _saved(self) -> asyncio.Task[None]:
        if self._save is None:
            self._save = asyncio.create_task(self._save_batch())
        return self._save

    async def _save_batch(self) -> None:
        batch = dict(list(self._marked.items())[:BATCH_MAX])
        for path in batch:
            del self._marked[path]
        self._saving = batch
        rows = tuple((path, row) for path, row in batch.items() if row is not None)
        forget = tuple(path for path, row in batch.items() if row is None)
        saved = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ledger.save_jobs(rows, forget)
            saved = True
        except TimeoutError:
            raise Unavailable("the ledger did not answer in time", 5) from None
        finally:
            self.failed = not saved
            if not saved:
                self._marked = batch | self._marked
            self._saving = {}
            self._save = None
