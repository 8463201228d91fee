"""Which hits of a stream are kept, so that ten million of them cost no more than a few hundred.

Hold in mind: what is kept depends on the text alone, never on the size of the reads. Per segment and row: the first and the last
hits, and the first ones of the last bursts (a burst ends when a step is completed), because the line that ended a run may be the
start of its second flood. Every count is of all matching lines, unless the row is muted: then it is ``COUNT_MAX``, the least.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from attr_actors.core import sparse
from attr_actors.core.signatures.library import FAILURE, PROGRESS, Role, Signature

BURSTS = 8
BURST_HITS = 4
STEPS_FIRST = 2
STEPS_LAST = 4
STEPS_AFTER = 3
COUNT_MAX = 100_000
"""From so many lines of a row on, lines that are all different are not counted any more: "at least" is all that anybody asks then."""
SEGMENTS_MAX = 2_000
"""More attempts in one file than any scheduler allows; of those in the middle even the counts go."""


class Mark:
    """A place in the text: the piece at ``start``, in the line at ``line_start``. ``line_number`` is set when its block is done."""

    __slots__ = ("after", "before", "is_long", "line_number", "line_start", "row", "start")

    def __init__(self, start: int, line_start: int, row: int = -1, is_long: bool = False) -> None:
        self.start = start
        self.line_start = line_start
        self.row = row
        self.is_long = is_long
        self.line_number = 0
        self.before: Mark | None = None
        self.after: list[Mark] = []


class RowHits:
    """The kept hits of one row in one segment."""

    __slots__ = ("_burst_left", "_last_start", "bursts", "first", "keep_first", "last", "wants_steps")

    def __init__(self, row: Signature) -> None:
        is_progress = row.role in PROGRESS
        self.keep_first = 2 if is_progress else row.keep
        self.first: list[Mark] = []
        self.last: deque[Mark] = deque(maxlen=8 if is_progress else row.keep)
        self.bursts: deque[Mark] = deque(maxlen=0 if is_progress else BURSTS * BURST_HITS)
        self.wants_steps = row.role in FAILURE
        self._burst_left = 0
        self._last_start = -1

    def add(self, mark: Mark, step_start: int) -> None:
        """Keep a hit or let it go; ``step_start`` is where the last completed step before it stands (-1: none)."""
        if len(self.first) < self.keep_first:
            self.first.append(mark)
        else:
            self.last.append(mark)
        if step_start > self._last_start:
            self._burst_left = BURST_HITS
        if self._burst_left:
            self._burst_left -= 1
            self.bursts.append(mark)
        self._last_start = mark.start

    def select(self, starts: Sequence[int], steps: Sequence[int]) -> list[int]:
        """Return the positions in ``starts`` of hits that ``add()`` would keep; to add only these, in order, has the same result.

        The first hits of every burst that a chosen hit belongs to are chosen as well, so that ``add()`` sees where bursts begin.
        """
        count = len(starts)
        chosen = {*range(min(count, self.keep_first - len(self.first))), *range(max(0, count - (self.last.maxlen or 0)), count)}
        wanted, end = dict[int, int](), 0
        for place in sorted(chosen):
            if place >= end:
                begin, end = _burst_around(place, starts, steps)
                wanted[begin] = end
        end, left = count, self.bursts.maxlen or 0
        while end and left > 0:
            begin, _ = _burst_around(end - 1, starts, steps)
            wanted[begin] = end
            left -= min(end - begin, BURST_HITS)
            end = begin
        for begin, end in wanted.items():
            chosen.update(range(begin, min(end, begin + BURST_HITS)))
        return sorted(chosen)

    def marks(self) -> Iterator[Mark]:
        """Yield the kept hits, some perhaps twice."""
        yield from self.first
        yield from self.bursts
        yield from self.last


def _burst_around(place: int, starts: Sequence[int], steps: Sequence[int]) -> tuple[int, int]:
    """Return where in ``starts`` the burst of a hit begins and ends: hits between the same two steps."""
    number = bisect_left(steps, starts[place])
    begin = bisect_right(starts, steps[number - 1]) if number else 0
    return begin, bisect_right(starts, steps[number]) if number < len(steps) else len(starts)


class SegmentHits:
    """The kept hits and steps between two attempt starts."""

    def __init__(self, start: Mark) -> None:
        self.start = start
        self.rows: dict[int, RowHits] = {}
        self.counts: dict[int, int] = {}
        self.steps_first: list[Mark] = []
        self.steps_last: deque[Mark] = deque(maxlen=STEPS_LAST)
        self.waiting: list[Mark] = []
        """Hits that still want the steps after them."""
        self.muted: set[int] = set()
        """Rows of which some hits were passed over."""
        self._touched: set[int] = set()
        self.has_failure = False

    def row_hits(self, index: int, row: Signature) -> RowHits:
        """Return the kept hits of a row."""
        kept = self.rows.get(index)
        if kept is None:
            kept = self.rows[index] = RowHits(row)
        return kept

    def add(self, mark: Mark, row: Signature, step: Mark | None, is_new_line: bool) -> None:
        """Take one hit; ``step`` is the last completed step before it."""
        kept = self.row_hits(mark.row, row)
        self._touched.add(mark.row)
        if is_new_line:
            self.counts[mark.row] = self.counts.get(mark.row, 0) + 1
        if step is not None and step.start < self.start.start:
            step = None
        kept.add(mark, step.start if step else -1)
        if row.role in FAILURE:
            self.has_failure = True
            mark.before = step

    def quotas(self, unmuted: Collection[int]) -> dict[int, int]:
        """Return the rows that were counted long enough, and how many last hits of each may be kept."""
        found = {row: self.rows[row] for row, count in self.counts.items() if count >= COUNT_MAX and row not in unmuted}
        return {row: kept.last.maxlen or 0 for row, kept in found.items()}

    def marks(self) -> Iterator[Mark]:
        """Yield everything kept, some perhaps twice."""
        yield self.start
        yield from self.steps_first
        yield from self.steps_last
        for kept in self.rows.values():
            yield from kept.marks()

    def new_marks(self) -> list[Mark]:
        """Return the kept hits that were added since the last call and are kept still, in order."""
        marks = {id(m): m for row in self._touched for m in self.rows[row].marks() if not m.line_number}
        self._touched.clear()
        return sorted(marks.values(), key=lambda m: m.start)

    def forget_waiting(self) -> None:
        """Let go of the waiting hits that are no longer kept."""
        kept = {id(mark) for row in self.rows.values() for mark in row.marks()}
        self.waiting = [mark for mark in self.waiting if id(mark) in kept]

    def forget(self) -> None:
        """Keep the counts only."""
        self.rows, self.steps_first, self.waiting = {}, [], []
        self.steps_last.clear()

    def value(self) -> sparse.Segment:
        """Return what others see of the segment."""
        counts = {row: COUNT_MAX if row in self.muted else count for row, count in self.counts.items()}
        return sparse.Segment(self.start.line_start, self.start.line_number, counts, frozenset(self.muted))


def opens_segment(row: Signature, segment: SegmentHits, step: Mark | None) -> bool:
    """Tell whether an attempt start opens a new segment: only if something has happened in the open one."""
    return row.role is Role.ATTEMPT and (segment.has_failure or (step is not None and step.start >= segment.start.start))


def trim_segments(segments: list[SegmentHits]) -> None:
    """Let go of what is too much: the kept hits of the middle segments, and whole segments beyond ``SEGMENTS_MAX``."""
    middle = len(segments) - 1 - sparse.SEGMENTS_LAST
    if middle >= sparse.SEGMENTS_FIRST:
        segments[middle].forget()
    if len(segments) > SEGMENTS_MAX:
        del segments[sparse.SEGMENTS_FIRST]
