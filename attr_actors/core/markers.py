"""What launchers write into a log about its layout: START PATHS blocks, LOGS_DIR and ``Cycle: N`` lines.

Hold in mind: a log is read once. ``Markers`` remembers how far it was read, and ``read_markers()`` reads on from there;
only a log that was replaced or truncated is read again, and what was counted in its former content stays counted,
because a scheduler that requeues a job may truncate its output. One call reads a bounded part: whoever keeps its answer
goes on from there, and ``Markers.is_behind()`` tells that there is more to read.
"""

from __future__ import annotations

import errno
import os
import re
import time
import zlib
from dataclasses import dataclass, replace

from attr_actors.core.paths import LogPath, open_log

START_PATHS = b"<< START PATHS >>"
END_PATHS = b"<< END PATHS >>"
LOGS_DIR = b"LOGS_DIR="
CYCLE_WRITER = b"profiling.py:"
CYCLE = re.compile(rb"Cycle: (\d{1,9})(?!\d)")

CHUNK_BYTES = 1 << 20
LINE_BYTES_MAX = 64 * 1024
"""A longer line is no marker: a path has at most 4096 bytes. Bounds the memory for a log without newlines."""
LOOK_BYTES = 64 << 20
"""So much one call reads beyond the head: a moment's work on a quick file system."""
LOOK_S = 1.0
"""A call that has read for so long returns what it has, s. It is far below what callers wait for a look."""
HEAD_BYTES = 4096
"""So many first bytes are checked to notice a log that was truncated and has grown again."""


@dataclass(frozen=True, slots=True)
class Markers:
    """What the first ``offset`` bytes of a log say about its layout."""

    offset: int = 0
    inode: int = 0
    head_crc: int = 0
    mid_line: bool = False
    """The bytes up to ``offset`` end inside a line that is too long to be a marker."""

    starts: int = 0
    """START PATHS blocks: each is one start by the scheduler."""
    block_open: bool = False
    logs_dir: str | None = None
    logs_dir_changes: int = 0
    attempts: int = 0
    """Starts of the workload: a rise of ``Cycle: N``, or any N after a new start by the scheduler."""
    cycle: int | None = None

    def is_behind(self, size: int | None) -> bool:
        """Tell whether a log of ``size`` bytes was not read through yet. What is left of one that was is half a line."""
        return self.starts > 0 and size is not None and size - self.offset > LINE_BYTES_MAX


def feed(state: Markers, data: bytes) -> Markers:
    """Take in the bytes that follow ``state.offset``, up to the last complete line."""
    begin = 0
    if state.mid_line:
        begin = data.find(b"\n") + 1
        if not begin:
            return replace(state, offset=state.offset + len(data))
    end = data.rfind(b"\n") + 1
    if end <= begin and len(data) - begin > LINE_BYTES_MAX:
        return replace(state, offset=state.offset + len(data), mid_line=True)
    for line in _candidates(data, begin, end):
        state = _take_line(state, line)
    return replace(state, offset=state.offset + max(begin, end), mid_line=False)


def read_markers(log: LogPath, known: Markers, head_bytes: int, look_bytes: int = LOOK_BYTES, look_s: float = LOOK_S) -> Markers:
    """Read on from where ``known`` ends and return what the log says up to where this call came.

    A log without a START PATHS line in its first ``head_bytes`` is not read further. Of others a call reads about
    ``look_bytes``, for about ``look_s`` seconds, and at least one chunk. Blocks; raises like open_log().
    """
    until = time.monotonic() + look_s
    fd = open_log(log)
    try:
        state = _resume(fd, known)
        left = look_bytes
        while state.starts or state.offset < head_bytes:
            data = os.pread(fd, CHUNK_BYTES, state.offset)
            after = feed(state, data)
            if after.offset == state.offset:
                break
            state = _past_hole(fd, after)
            left -= len(data)
            if state.starts and (left <= 0 or time.monotonic() >= until):
                break
        return replace(state, head_crc=_head_crc(fd, state.offset))
    finally:
        os.close(fd)


def _resume(fd: int, known: Markers) -> Markers:
    found = os.fstat(fd)
    same = known.inode == found.st_ino and known.offset <= found.st_size
    if same and _head_crc(fd, known.offset) == known.head_crc:
        return known
    return replace(known, offset=0, inode=found.st_ino, mid_line=False, block_open=False, cycle=None)


def _past_hole(fd: int, state: Markers) -> Markers:
    """Skip the hole that a line without end runs into: it reads as zeros. A file system without holes skips nothing."""
    if not state.mid_line:
        return state
    size = os.fstat(fd).st_size
    try:
        data = os.lseek(fd, state.offset, os.SEEK_DATA)
    except OSError as exc:
        data = size if exc.errno == errno.ENXIO else state.offset
    return replace(state, offset=max(state.offset, data))


def _head_crc(fd: int, offset: int) -> int:
    return zlib.crc32(os.pread(fd, min(offset, HEAD_BYTES), 0))


def _candidates(data: bytes, begin: int, end: int) -> list[bytes]:
    """Return the lines that may be markers, in order. ``bytes.find`` runs at memory speed; a regular expression does not."""
    starts: set[int] = set()
    for needle in (b" PATHS >>", LOGS_DIR, CYCLE_WRITER):
        at = data.find(needle, begin, end)
        while at >= 0:
            line = data.rfind(b"\n", begin, at) + 1 or begin
            starts.add(line)
            at = data.find(needle, data.find(b"\n", at), end)
    return [data[at : data.index(b"\n", at)] for at in sorted(starts)]


def _take_line(state: Markers, raw: bytes) -> Markers:
    line = raw.strip()
    if line == START_PATHS:
        return replace(state, starts=state.starts + 1, block_open=True, cycle=None)
    if line == END_PATHS:
        return replace(state, block_open=False)
    if state.block_open and line.startswith(LOGS_DIR):
        named = line.removeprefix(LOGS_DIR).decode(errors="replace").strip().rstrip("/")
        changed = state.logs_dir is not None and named != state.logs_dir
        return replace(state, logs_dir=named or state.logs_dir, logs_dir_changes=state.logs_dir_changes + changed)
    number = _cycle_of(line)
    return state if number is None else take_cycle(state, number)


def _cycle_of(line: bytes) -> int | None:
    """Return the last ``Cycle: N`` behind the writer's name. In two steps: one expression for both is quadratic."""
    at = line.find(CYCLE_WRITER)
    numbers = CYCLE.findall(line, at) if at >= 0 else []
    return int(numbers[-1]) if numbers else None


def take_cycle(state: Markers, cycle: int) -> Markers:
    """Count a ``Cycle: N`` line. Several ranks print the same N; a return to 0 is a new start by the scheduler."""
    if state.cycle is None or cycle > state.cycle or (cycle == 0 and state.cycle > 0):
        return replace(state, attempts=state.attempts + 1, cycle=cycle)
    return state
