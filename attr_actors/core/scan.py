"""Scan a log: from a file to the sparse log that everything after it reads, at memory speed and in bounded memory.

Hold in mind: two steps over one snapshot. The first streams the file and keeps places (scanning.py), the second reads the text around
them (windows.py). Nothing about a file's content raises; what could not be read makes the scan ``partial``.
"""

from __future__ import annotations

import os

from attr_actors.core.blocks import CHUNK_BYTES, read_blocks
from attr_actors.core.paths import LogPath, open_log
from attr_actors.core.scanning import Scanning
from attr_actors.core.signatures.database import Database
from attr_actors.core.source import Source
from attr_actors.core.sparse import Scan
from attr_actors.core.windows import collect_pieces
from attr_actors.errors import EmptyFile
from attr_actors.models import Snapshot

SCAN_BYTES_MAX = 256 << 30
NO_HEAD = "the log begins with NUL bytes, so its head is missing"


def scan_log(log: LogPath, database: Database, bytes_max: int = SCAN_BYTES_MAX) -> tuple[Snapshot, Scan]:
    """Scan an admitted log. Raises EmptyFile, NotFound, NotReadable, NotRegular, OutsideRoot."""
    fd = open_log(log)
    try:
        if os.fstat(fd).st_size == 0:
            raise EmptyFile(f"'{log.path}' is empty")
        source = Source(fd, log.path, bytes_max)
        return source.snapshot, scan_source(source, database)
    finally:
        os.close(fd)


def scan_source(source: Source, database: Database, chunk_bytes: int = CHUNK_BYTES) -> Scan:
    """Scan one snapshot; the size of the reads does not change the answer. Safe from several threads at once."""
    database = database.clone()
    found = Scanning(database)
    stream = source.open()
    for block in read_blocks(stream, chunk_bytes):
        found.take(block)
    return conclude(found, source, database, stream.note)


def conclude(found: Scanning, source: Source, database: Database, note: str | None) -> Scan:
    """Return the scan of a text that was taken to its end; ``note`` says what was wrong with the file on the way."""
    pieces, change = collect_pieces(found, source, database)
    return Scan(
        pieces=pieces,
        segments=[segment.value() for segment in found.segments],
        bytes_read=found.bytes_read,
        lines=found.newlines + found.has_open_line,
        partial=note or source.find_change() or change or (NO_HEAD if source.lacks_head else None),
    )
