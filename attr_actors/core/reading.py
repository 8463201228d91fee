"""A few lines out of a log of any size: a window by line numbers, and a search. Line numbers are those of citations.

Hold in mind: whoever asks may be a program that reads everything it gets, so that lines, their length and the bytes
read are bounded, and what was left out is said. Blocks: call it from a thread, which ends soon after its deadline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import re2

from attr_actors.core.paths import LogPath, open_log
from attr_actors.core.source import Source
from attr_actors.errors import InvalidParameter, Unavailable
from attr_actors.models import Value

BLOCK_BYTES = 1 << 16
"""Bytes searched between two looks at the deadline. The parts of a longer line are searched one by one."""
LINE_CHARS_MAX = 500
LINES_MAX = 200
"""With lines at their longest 100 KB, which is what an assistant can still read in one piece."""
SEARCH_BYTES_MAX = 4 << 30
PATTERN_CHARS_MAX = 1_000
PATTERN_BYTES_MAX = 1 << 18
"""Memory of a compiled pattern, bytes. It bounds the time of a block, too: some seconds for the worst pattern, not half a minute."""


class Deadline:
    """When a reading must end: ``timeout_s`` seconds after this was made, or as soon as its caller gave up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s

    def give_up(self) -> None:
        """End the reading at its next check; from any thread."""
        self._ends_at = 0.0

    def check(self) -> None:
        """Raise Unavailable when the time is over."""
        if time.monotonic() >= self._ends_at:
            raise Unavailable(f"reading took longer than {self._timeout_s:g} s; ask for less", 10.0)


class NumberedLine(Value):
    """One line of a log, cut to a bounded length."""

    line_number: int
    text: str


class Excerpt(Value):
    """Lines of a log. ``next_line`` is where to go on, None at the end; ``note`` says what was left out and why."""

    log_path: str
    lines: tuple[NumberedLine, ...]
    next_line: int | None = None
    note: str | None = None


def read_window(log: LogPath, first_line: int, count: int, deadline: Deadline) -> Excerpt:
    """Return up to ``count`` (at most 200) lines from ``first_line`` on.

    Raises InvalidParameter, Unavailable after the deadline, and like open_log().
    """
    if first_line < 1 or not 1 <= count <= LINES_MAX:
        raise InvalidParameter(f"first_line counts from 1, and at most {LINES_MAX} lines are shown at a time")
    return _collect(log, first_line, count, None, deadline)


def search_log(log: LogPath, pattern: str, first_line: int, matches_max: int, ignore_case: bool, deadline: Deadline) -> Excerpt:
    """Return the lines from ``first_line`` on that match a regular expression (RE2 syntax, which no text can make slow).

    Raises InvalidParameter, Unavailable after the deadline, and like open_log().
    """
    if first_line < 1 or not 1 <= matches_max <= LINES_MAX:
        raise InvalidParameter(f"first_line counts from 1, and at most {LINES_MAX} matches are shown at a time")
    return _collect(log, first_line, matches_max, _compile(pattern, ignore_case), deadline)


def _compile(pattern: str, ignore_case: bool) -> Any:
    if not 0 < len(pattern) <= PATTERN_CHARS_MAX:
        raise InvalidParameter(f"the pattern must have 1 to {PATTERN_CHARS_MAX} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_BYTES_MAX
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(b"(?m)" + pattern.encode(), options)
    except (re2.error, UnicodeEncodeError) as exc:
        raise InvalidParameter(f"the pattern is no RE2 expression: {exc}") from None


def _collect(log: LogPath, first_line: int, count: int, pattern: Any, deadline: Deadline) -> Excerpt:
    found: list[NumberedLine] = []
    fd = open_log(log)
    try:
        stream = Source(fd, log.path, SEARCH_BYTES_MAX, deadline.check).open()
        for line_number, line in _lines(stream, first_line, pattern, deadline):
            if len(found) == count:
                return Excerpt(log_path=log.path, lines=tuple(found), next_line=line_number, note=stream.note)
            found.append(NumberedLine(line_number=line_number, text=_shown(line)))
        return Excerpt(log_path=log.path, lines=tuple(found), note=stream.note)
    finally:
        os.close(fd)


def _lines(stream: Any, first_line: int, pattern: Any, deadline: Deadline) -> Iterator[tuple[int, bytes]]:
    """Yield the lines from ``first_line`` on, or those that match, with their numbers; of a line in parts one part."""
    last = 0
    for number, block in _blocks(stream):
        deadline.check()
        if number + block.count(b"\n") < first_line or (pattern and not pattern.search(block)):
            continue
        for line_number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), number):
            deadline.check()
            if line_number >= first_line and line_number > last and (not pattern or pattern.search(line)):
                last = line_number
                yield line_number, line


def _blocks(stream: Any) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines with the number of their first line. A line longer than a block comes in parts of one number."""
    buffer = bytearray(BLOCK_BYTES)
    number, rest = 1, b""
    while size := stream.readinto(memoryview(buffer)):
        block = rest + bytes(buffer[:size])
        cut = block.rfind(b"\n") + 1
        if not cut and len(block) < BLOCK_BYTES:
            rest = block
            continue
        whole, rest = (block[:cut], block[cut:]) if cut else (block, b"")
        yield number, whole
        number += whole.count(b"\n")
    if rest:
        yield number, rest


def _shown(line: bytes) -> str:
    text = line[: 4 * LINE_CHARS_MAX].decode(errors="replace").replace("\r", "\n").rstrip("\n")
    text = "".join(c if c.isprintable() or c == "\t" else " " for c in text)
    return text if len(text) <= LINE_CHARS_MAX and len(line) <= 4 * LINE_CHARS_MAX else text[: LINE_CHARS_MAX - 1] + "…"
