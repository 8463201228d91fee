"""Where one run of the workload ends and the next begins inside one file. Hold in mind: the last attempt is judged."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from attr_actors.core.lines import LogLine
from attr_actors.core.progress import Step
from attr_actors.core.signatures.library import Role, Signature

CYCLE = re.compile(r"profiling\.py:.*?\bCycle: (?P<cycle>\d+)")
VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+")
LIFE = frozenset({Role.ITERATION, Role.DONE, Role.HARDWARE, Role.SCHEDULER, Role.PRIMARY, Role.CONFIRMATION, Role.TRACEBACK})
ENDINGS = frozenset({Role.DONE, Role.TEARDOWN, Role.SCHEDULER, Role.TRACEBACK, Role.PRIMARY, Role.CONFIRMATION})
NEW_LIFE = frozenset({Role.ITERATION, Role.DONE, Role.ATTEMPT, Role.PRIMARY})
REQUEUE = "slurm_requeue"
COUNTERS = frozenset({"step", "epoch"})
ECHO_LINES_MAX = 20
"""What says so much in a language that no row knows is a run."""
HEAD_LINES = 3
HEAD_WITHIN = 60
HEAD_CHARS_MIN = 12

Span = tuple[int, int]


def shape(text: str) -> str:
    """Return a text with its numbers and addresses levelled."""
    return VARYING.sub("#", text.strip())


def roles_of(line: LogLine, rows: Sequence[Signature]) -> frozenset[Role]:
    """Return the roles of the rows that match a line."""
    return frozenset(rows[r].role for r in line.piece.rows)


def split_attempts(lines: Sequence[LogLine], rows: Sequence[Signature]) -> list[Span]:
    """Return the attempts as ranges within ``lines``, in order, without gaps; at least one."""
    found = _Cuts(lines, rows)
    for place, line in enumerate(lines):
        found.read(place, line)
    return _merge_lifeless(lines, rows, list(zip(found.cuts, [*found.cuts[1:], len(lines)], strict=True)))


class _Cuts:
    """Finds the places where a run begins again.

    A start marker counts only when something ended or moved since the last cut: banners come once per rank and per
    node. The file's first lines coming again, a counter that falls back, and a requeue count only behind an ending.
    """

    def __init__(self, lines: Sequence[LogLine], rows: Sequence[Signature]) -> None:
        self.cuts = [0]
        self._rows = rows
        has_ranks = len({line.rank for line in lines if line.rank is not None}) > 1
        self._heads = {} if has_ranks else _head_shapes(lines, rows)  # Each rank prints them again, and late where it is buffered.
        self._requeue = next((i for i, row in enumerate(rows) if row.id == REQUEUE), -1)
        self._ended_at: int | None = None
        self._requeued_at: int | None = None
        self._moved = False
        self._steps: dict[str, Step] = {}

    def read(self, place: int, line: LogLine) -> None:
        """Read one line."""
        roles = roles_of(line, self._rows)
        if self._requeued_at is not None and roles & NEW_LIFE:
            self._cut(self._requeued_at + 1)
        is_marked = Role.ATTEMPT in roles and (self._ended_at is not None or self._moved)
        is_repeated = self._ended_at is not None and self._heads.get(shape(line.body), place) < place
        if is_marked or is_repeated:
            self._cut(place)
        if Role.ITERATION in roles:
            self._step(line)
        if self._requeue in line.piece.rows:
            self._requeued_at = place
        if roles & ENDINGS:
            self._ended_at = place

    def _step(self, line: LogLine) -> None:
        step, before = Step(line), self._steps.get(line.stream)
        if self._ended_at is not None and before is not None and _fell_back(before, step):
            self._cut(self._ended_at + 1)
        self._steps[line.stream] = step
        self._moved = True

    def _cut(self, place: int) -> None:
        if place > self.cuts[-1]:
            self.cuts.append(place)
        self._ended_at = self._requeued_at = None
        self._moved = False
        self._steps = {}


def _fell_back(before: Step, step: Step) -> bool:
    """Tell whether a counter of the run stands lower than before."""
    if step.kind not in COUNTERS or step.kind != before.kind or step.number is None or before.number is None:
        return False
    return step.number < before.number


def _head_shapes(lines: Sequence[LogLine], rows: Sequence[Signature]) -> dict[str, int]:
    """Return the shapes of the file's first lines, with their places: what an appended run prints again, behind an ending."""
    lines = list(itertools.takewhile(lambda line: not roles_of(line, rows) & ENDINGS, lines[:HEAD_WITHIN]))
    filled = [(shape(line.body), place) for place, line in enumerate(lines) if _can_be_head(line, rows)]
    names = [name for name, _ in filled]
    return {name: place for name, place in filled[:HEAD_LINES] if names.count(name) == 1}


def _can_be_head(line: LogLine, rows: Sequence[Signature]) -> bool:
    """Tell whether a line is long enough to be told from others, and no progress bar, which every stage of a run begins anew."""
    return len(line.body.strip()) >= HEAD_CHARS_MIN and Role.ITERATION not in roles_of(line, rows)


def _merge_lifeless(lines: Sequence[LogLine], rows: Sequence[Signature], spans: list[Span]) -> list[Span]:
    """Join a short part in which nothing ran or failed to the part before it: its start marker was an echo."""
    merged: list[Span] = []
    for first, last in spans:
        is_long = last > first and lines[last - 1].number - lines[first].number >= ECHO_LINES_MAX
        alive = is_long or any(roles_of(line, rows) & LIFE for line in lines[first:last])
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
