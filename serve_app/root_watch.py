"""Whether the directory of all logs is still there. Without it every log would be "not found", which clients take as final."""

from __future__ import annotations

import asyncio
import os

from attr_actors.errors import AttrError
from attr_actors.file_threads import FileThreads


class RootWatch:
    """Looks at the root now and then; a file system that hangs holds up the look alone, and is told by ``files``."""

    def __init__(self, root: str, files: FileThreads, timeout_s: float) -> None:
        self._root = root
        self._files = files
        self._timeout_s = timeout_s
        self._first: int | None = None
        self._issue: str | None = None
        self._looking: asyncio.Task[None] | None = None

    def issues(self) -> list[str]:
        """Return what an operator must mend."""
        return [self._issue] if self._issue else []

    def look(self) -> None:
        """Start a look, unless one is under way."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            device = await self._files.run(self._root, lambda: _device(self._root), self._timeout_s)
        except AttrError:
            return
        self._first = device if self._first is None else self._first
        self._issue = None
        if device is None:
            self._issue = f"the root '{self._root}' is not there; is it mounted?"
        elif device != self._first:
            self._issue = f"the root '{self._root}' is on another file system than at the start; was it unmounted?"


def _device(path: str) -> int | None:
    """Return the device of a directory; None if it is not there."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None
