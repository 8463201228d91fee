"""Where one run of the workload ends and the next begins inside one file. Hold in mind: the last attempt is judged."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attr_actors.core.lines import LogLine
from attr_actors.core.signatures.library import Role, Signature

CYCLE = re.compile(r"profiling\.py:.*?\bCycle: (?P<cycle>\d+)")
DIGITS = re.compile(r"\d+")
LIFE = frozenset({Role.ITERATION, Role.DONE, Role.HARDWARE, Role.SCHEDULER, Role.PRIMARY, Role.CONFIRMATION, Role.TRACEBACK})
ENDINGS = frozenset({Role.DONE, Role.TEARDOWN, Role.SCHEDULER, Role.TRACEBACK, Role.PRIMARY, Role.CONFIRMATION})
HEAD_LINES = 3
HEAD_WITHIN = 60
HEAD_CHARS_MIN = 12


def roles_of(line: LogLine, rows: Sequence[Signature]) -> frozenset[Role]:
    """Return the roles of the rows that match a line."""
    return frozenset(rows[r].role for r in line.piece.rows)


def split_attempts(lines: Sequence[LogLine], rows: Sequence[Signature]) -> list[tuple[int, int]]:
    """Return the attempts as ranges of line indices, in order, without gaps; at least one.

    A new attempt begins at a start marker, or where the file's first lines come again, provided that something ended
    or moved since the last cut: start banners come once per rank and per node.
    """
    heads = _head_shapes(lines)
    cuts = [0]  # Indices within ``lines``.
    ended = moved = False
    for place, line in enumerate(lines):
        roles = roles_of(line, rows)
        marked = Role.ATTEMPT in roles and (ended or moved)
        repeated = ended and place > 0 and heads.get(shape(line.body), place) < place
        if (marked or repeated) and place > cuts[-1]:
            cuts.append(place)
            ended = moved = False
        ended = ended or bool(roles & ENDINGS)
        moved = moved or Role.ITERATION in roles
    return _merge_lifeless(lines, rows, list(zip(cuts, [*cuts[1:], len(lines)], strict=True)))


def _head_shapes(lines: Sequence[LogLine]) -> dict[str, int]:
    """Return the shapes of the file's first lines, with their places: what an appended run prints again."""
    filled = [(shape(line.body), place) for place, line in enumerate(lines[:HEAD_WITHIN]) if len(line.body.strip()) >= HEAD_CHARS_MIN]
    names = [name for name, _ in filled]
    return {name: place for name, place in filled[:HEAD_LINES] if names.count(name) == 1}


def shape(text: str) -> str:
    """Return a text with its numbers levelled."""
    return DIGITS.sub("#", text.strip())


def _merge_lifeless(lines: Sequence[LogLine], rows: Sequence[Signature], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join a part in which nothing ran or failed to the part before it: its start marker was an echo."""
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        alive = any(roles_of(line, rows) & LIFE for line in lines[first:last])
        if merged and not alive:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def split_cycles(lines: Sequence[LogLine]) -> list[tuple[int, int, int]]:
    """Return (workload restart, first, last) ranges between ``Cycle: N`` markers; one range where there is none."""
    marks: list[tuple[int, int]] = []
    for line in lines:
        found = CYCLE.search(line.body)
        if found and (not marks or int(found["cycle"]) != marks[-1][0]):
            marks.append((int(found["cycle"]), line.index))
    if not marks:
        return [(0, 0, len(lines))]
    starts = [0, *(index for _, index in marks[1:])]
    ends = [*starts[1:], len(lines)]
    return [(cycle, first, last) for (cycle, _), first, last in zip(marks, starts, ends, strict=True)]
