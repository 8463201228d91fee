"""The API keys as their file has them now."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attr_actors.core.access import ANYONE, Caller, KeyRing, parse_keys
from attr_actors.errors import BadSettings, Unauthorized

logger = logging.getLogger("attr_actors.keys")


class Keys:
    """Identifies callers; reads the file again when it changed. Without a file everybody may do everything."""

    def __init__(self, path: str) -> None:
        """Read the file. Raises BadSettings."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")  # No request can fill it, so that a revoked key always goes.
        self._stamp: tuple[int, int, int] | None = None
        self._ring: KeyRing | None = None
        self._issue: str | None = None
        if path:
            self._read()

    def issues(self) -> list[str]:
        """Return what is wrong with the file."""
        return [self._issue] if self._issue else []

    def identify(self, token: str | None) -> Caller:
        """Return who asks. Raises Unauthorized."""
        if self._ring is None:
            return ANYONE
        if not token:
            raise Unauthorized("send an API key: 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
        return self._ring.identify(token)

    async def reload(self) -> None:
        """Read the file if it changed. A file that cannot be read leaves the former keys in force, and is an issue."""
        if not self._path:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            self._issue = None
        except BadSettings as exc:
            if self._issue != exc.message:
                logger.error("the former API keys stay in force: %s", exc.message)
            self._issue = exc.message

    def _read(self) -> None:
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                self._ring = KeyRing(parse_keys(Path(self._path).read_text()))
                self._stamp = stamp
        except (OSError, UnicodeDecodeError) as exc:
            raise BadSettings(f"the file of API keys '{self._path}' cannot be read: {exc}") from None
