"""Follows a log that is being written: each go reads what was appended, and the end costs only the tail.

Hold in mind: the result is the one that a single scan of the finished file gives (but for how far floods of 100,000 different
lines are counted, which the size of the reads may decide), or none: whenever the file is not the
one that was read before, or cannot be read from the middle (compressed, UTF-16), the caller scans it from the start.
"""

from __future__ import annotations

import os
import zlib

from attr_actors.core.blocks import Block, read_blocks
from attr_actors.core.paths import LogPath, open_log
from attr_actors.core.scan import conclude
from attr_actors.core.scanning import Scanning
from attr_actors.core.signatures.database import Database
from attr_actors.core.source import Source
from attr_actors.core.sparse import Scan
from attr_actors.models import Snapshot

CHUNK_BYTES = 1 << 18
"""Smaller than a scan's: each followed log keeps a buffer of this size."""
CHECK_BYTES = 4096
"""So many bytes at the start and before the end of what was read tell whether it is still the same text."""


class Following:
    """How far a growing log was read, and what was found in it. Not for several threads at once."""

    def __init__(self, database: Database, bytes_max: int) -> None:
        self._original = database
        self._bytes_max = bytes_max
        self._begin()

    def _begin(self) -> None:
        self._database = self._original.clone()
        self._found = Scanning(self._database)
        self._block = Block(CHUNK_BYTES)
        self._inode = -1
        self._checks = (0, 0)

    @property
    def read_bytes(self) -> int:
        """Return how much of the log was read."""
        return self._block.base + self._block.end

    def read_on(self, log: LogPath) -> None:
        """Take in what was appended, but for an open piece at the end; all of it when the file is another one. Raises like open_log()."""
        fd = open_log(log)
        try:
            source = Source(fd, log.path, self._bytes_max)
            if not self._is_same(fd):
                self._begin()
            if source.is_seekable and source.snapshot.size > self.read_bytes:
                note = self._take(source, is_whole=False)
                self._inode, self._checks = os.fstat(fd).st_ino, self._read_checks(fd)
                if note:
                    self._begin()
        finally:
            os.close(fd)

    def finish(self, log: LogPath) -> tuple[Snapshot, Scan] | None:
        """Take in the rest and return the scan; None if the log must be scanned from the start. Raises like open_log()."""
        fd = open_log(log)
        try:
            source = Source(fd, log.path, self._bytes_max)
            if not self.read_bytes or not self._is_same(fd):
                return None
            note = self._take(source, is_whole=True)
            return source.snapshot, conclude(self._found, source, self._database, note)
        finally:
            os.close(fd)

    def _take(self, source: Source, is_whole: bool) -> str | None:
        stream = source.open(self.read_bytes)
        for block in read_blocks(stream, CHUNK_BYTES, self._block, is_whole):
            self._found.take(block)
        return stream.note

    def _is_same(self, fd: int) -> bool:
        seen = os.fstat(fd)
        return seen.st_ino == self._inode and seen.st_size >= self.read_bytes and self._read_checks(fd) == self._checks

    def _read_checks(self, fd: int) -> tuple[int, int]:
        read = self.read_bytes
        begin = max(0, read - CHECK_BYTES)
        return zlib.crc32(os.pread(fd, min(read, CHECK_BYTES), 0)), zlib.crc32(os.pread(fd, read - begin, begin))
