"""Bounded reading of single lines of a log: what a citation is checked against, and what a model may look up.

Hold in mind: the file may have changed since it was analysed. What is read here is compared with what was cited, so a
changed file drops citations and never adds any. Blocks on the file system: call it from a thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from attr_actors.core.paths import LogPath, open_log
from attr_actors.core.source import Source, Stream
from attr_actors.models import Line

CHUNK = 1 << 20
READ_BYTES_MAX = 4 << 30
"""Most decompressed bytes read per question, about a second or two; what lies beyond is out of reach."""
LINE_BYTES_MAX = 65_536
FOUND_MAX = 20
WINDOW_LINES = 12
TAIL_LINES = 40
TAIL_BLOCKS = 3
"""Blocks remembered while looking for the end: the last one may be a remainder."""


@contextmanager
def open_source(log: LogPath) -> Iterator[Source]:
    """Open an admitted log as the scan does. Raises like open_log()."""
    fd = open_log(log)
    try:
        yield Source(fd, log.path, READ_BYTES_MAX)
    finally:
        os.close(fd)


def read_lines(log: LogPath, wanted: Iterable[int], anchors: Mapping[int, int] | None = None) -> dict[int, Line]:
    """Read lines by number. ``anchors`` are known byte offsets of lines, which save reading what lies before them."""
    missing = {number for number in wanted if number >= 1}
    found: dict[int, Line] = {}
    with open_source(log) as source:
        if source.is_seekable:
            known = {number: offset for number, offset in (anchors or {}).items() if number in missing}
            found = {number: line for number, offset in known.items() if (line := _read_at(source, number, offset))}
        missing -= found.keys()
        for number, offset, block in _blocks(source.open()) if missing else ():
            found |= _lines_in(block, number, offset, missing - found.keys())
            if max(missing) < number + block.count(b"\n"):
                break
    return found


def read_window(log: LogPath, number: int, anchors: Mapping[int, int] | None = None) -> tuple[Line, ...]:
    """Read the lines around one."""
    first = max(1, number - WINDOW_LINES)
    return tuple(read_lines(log, range(first, number + WINDOW_LINES + 1), anchors).values())


def read_tail(log: LogPath) -> tuple[Line, ...]:
    """Read the last lines of a log."""
    last: deque[tuple[int, int, bytes]] = deque(maxlen=TAIL_BLOCKS)
    with open_source(log) as source:
        for block in _blocks(source.open()):
            last.append(block)
    lines = [line for number, offset, block in last for line in _lines_of(block, number, offset)]
    return tuple(line for line in lines[-TAIL_LINES:] if line.text.strip())


def search(log: LogPath, text: str) -> tuple[Line, ...]:
    """Return the first lines that hold a literal text, whatever its case is in ASCII."""
    needle = text.encode("utf-8", "replace").lower()
    found: list[Line] = []
    if len(needle) < 3 or b"\n" in needle:
        return ()
    with open_source(log) as source:
        for number, offset, block in _blocks(source.open()):
            at = block.lower().find(needle)
            while at >= 0 and len(found) < FOUND_MAX:
                start = block.rfind(b"\n", 0, at) + 1
                end = block.find(b"\n", at)
                end = len(block) if end < 0 else end
                found.append(_line(number + block.count(b"\n", 0, start), offset + start, block[start:end]))
                at = block.lower().find(needle, end)
            if len(found) >= FOUND_MAX:
                break
    return tuple(found)


def _blocks(stream: Stream) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number, offset, bytes) of blocks that end at a line's end; a line without end is cut at the block size."""
    number, offset, rest = 1, 0, b""
    buffer = bytearray(CHUNK)
    while True:
        chunk = bytes(buffer[: stream.readinto(memoryview(buffer))])
        block = rest + chunk
        if not block:
            return
        cut = block.rfind(b"\n") + 1 if chunk else len(block)
        if not cut and len(block) >= 4 * CHUNK:
            cut = len(block)
        yield number, offset, block[:cut]
        number += block.count(b"\n", 0, cut)
        offset += cut
        rest = block[cut:]


def _lines_in(block: bytes, number: int, offset: int, wanted: Iterable[int]) -> dict[int, Line]:
    """Return the wanted lines that begin in a block whose first line is ``number``."""
    last = number + block.count(b"\n")
    inside = sorted(n for n in wanted if number <= n <= last)
    found: dict[int, Line] = {}
    start = 0
    for n in inside:
        while number < n:
            start = block.index(b"\n", start) + 1
            number += 1
        if start < len(block):
            end = block.find(b"\n", start)
            found[n] = _line(n, offset + start, block[start : end if end >= 0 else None])
    return found


def _lines_of(block: bytes, number: int, offset: int) -> Iterator[Line]:
    """Yield the last lines of a block."""
    rows = block.removesuffix(b"\n").split(b"\n")
    skipped = max(0, len(rows) - TAIL_LINES)
    offset += sum(len(row) + 1 for row in rows[:skipped])
    for place, row in enumerate(rows[skipped:]):
        yield _line(number + skipped + place, offset, row)
        offset += len(row) + 1


def _read_at(source: Source, number: int, offset: int) -> Line | None:
    """Read the line that begins at an offset; None if no line begins there any more."""
    raw = source.read_at(max(0, offset - 1), offset + LINE_BYTES_MAX)
    if offset:
        if not raw.startswith(b"\n"):
            return None
        raw = raw[1:]
    return _line(number, offset, raw.split(b"\n", 1)[0]) if raw else None


def _line(number: int, offset: int, raw: bytes) -> Line:
    return Line(line_number=number, byte_offset=offset, text=raw[:LINE_BYTES_MAX].rstrip(b"\r").decode("utf-8", "replace"))
