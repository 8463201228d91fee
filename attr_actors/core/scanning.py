"""One pass over a stream: hits, steps, segments and line numbers of all blocks.

Hold in mind: a steady block costs one pass of the automaton, one count of newlines and a look at its end. Places are numbered at the
end of their block, when it is known which of them are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from attr_actors.core.blocks import Block
from attr_actors.core.floods import FloodFinder
from attr_actors.core.hits import Hit, HitFinder
from attr_actors.core.keeping import STEPS_AFTER, STEPS_FIRST, STEPS_LAST, Mark, SegmentHits, opens_segment, trim_segments
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.library import PROGRESS, Role
from attr_actors.core.steps import BlockSteps

SAMPLE_BYTES = 8 << 20
"""One step per so many bytes is kept as a sample of the run's pace."""
SAMPLES_MAX = 2_000
WAITING_MAX = 2_000
PIECES_MANY = 48
PIECES_DENSE = 1_000
"""From so many hit pieces on, the steps of a block are found once and for all; from the lower number on, if they are few."""


class Scanning:
    """The state of one pass. Feed it all blocks, then read the attributes."""

    def __init__(self, database: Database) -> None:
        self._rows = database.rows
        self._finder = HitFinder(database)
        self._floods = FloodFinder(database)
        self._database = database
        self._attempts = frozenset(i for i, row in enumerate(database.rows) if row.role is Role.ATTEMPT)
        """Of the hits of one piece these come first: an attempt begins before what its first line says."""
        self._progress_rows = frozenset(i for i, row in enumerate(database.rows) if row.role in PROGRESS)
        self._unmuted = self._attempts | self._progress_rows
        first = Mark(0, 0)
        first.line_number = 1
        self.segments = [SegmentHits(first)]
        self.samples: list[Mark] = []
        self.newlines = 0
        self.has_open_line = False
        self.bytes_read = 0
        self._step: Mark | None = None
        self._next_sample = 0
        self._counted_line: dict[int, int] = {}
        self._fresh: list[Mark] = []

    def take(self, block: Block) -> None:
        """Take the new text of a block."""
        steps = BlockSteps(block, self._database)
        hits = self._finder.find(block)
        is_flood = hits is None
        if hits is None:
            hits = self._take_flood(block, steps)
        if hits is None:
            is_flood, hits = False, self._finder.find_each(block)
        if any(hit.row in self._attempts for hit in hits):
            hits.sort(key=lambda hit: (hit.start, hit.row not in self._attempts))
        if len(hits) > PIECES_DENSE:
            steps.find_all()
        elif len(hits) > PIECES_MANY:
            steps.find_few()
        cursor = block.low
        for hit in hits:
            if hit.start > cursor and hit.row not in self._progress_rows:
                self._take_steps(block, steps, cursor, hit.start)
                cursor = hit.start
            self._take_hit(block, steps, hit, is_flood)
        self._take_steps(block, steps, cursor, block.high)
        self._close_stretch(block, steps, block.high)
        self._take_samples(block, steps)
        self._number(block)
        self.bytes_read = block.high + block.base
        self.has_open_line = block.raw[block.high - 1] != 0x0A

    def _take_flood(self, block: Block, steps: BlockSteps) -> list[Hit] | None:
        """Count the hits of a dense block in bulk and return those that may be kept; None if it has to be taken hit by hit."""
        segment = self.segments[-1]
        flood = self._floods.find(block, segment.quotas(self._unmuted))
        if flood is None or not self._attempts.isdisjoint(flood.hits):
            return None
        if flood.steps is not None:
            steps.know(flood.steps)
        segment.muted |= flood.muted
        hits: list[Hit] = []
        for row, starts in flood.hits.items():
            lines = self._count_lines(block, row, starts)
            segment.counts[row] = segment.counts.get(row, 0) + lines
            hits += [Hit(starts[i], row) for i in segment.row_hits(row, self._rows[row]).select(starts, steps.all)]
        hits.sort()
        return hits

    def _count_lines(self, block: Block, row: int, starts: Sequence[int]) -> int:
        """Return how many lines the pieces lie in, without a line that is counted already."""
        is_counted = self._counted_line.get(row) == block.line_start_of(starts[0])
        self._counted_line[row] = block.line_start_of(starts[-1])
        if block.text is block.raw:
            return len(starts) - is_counted
        ends = list(accumulate(map((1).__add__, map(len, bytes(block.view[block.low : block.high]).split(b"\n"))), initial=block.low))
        return len(set(map(partial(bisect_right, ends), starts))) - is_counted

    def _take_hit(self, block: Block, steps: BlockSteps, hit: Hit, is_counted: bool) -> None:
        row = self._rows[hit.row]
        mark = Mark(hit.start + block.base, block.line_start_of(hit.start), hit.row, hit.is_long)
        if opens_segment(row, self.segments[-1], self._step):
            self._close_stretch(block, steps, hit.start)
            start = Mark(mark.start, mark.line_start)
            self._fresh.append(start)
            self.segments.append(SegmentHits(start))
            trim_segments(self.segments)
        is_new_line = not is_counted and self._counted_line.get(hit.row) != mark.line_start
        if is_new_line:
            self._counted_line[hit.row] = mark.line_start
        self.segments[-1].add(mark, row, self._step, is_new_line)

    def _mark_steps(self, block: Block, places: Sequence[int]) -> list[Mark]:
        marks = [Mark(place + block.base, block.line_start_of(place)) for place in places]
        self._fresh += marks
        return marks

    def _take_steps(self, block: Block, steps: BlockSteps, low: int, high: int) -> None:
        """Take the steps between two hits (or to the end of the block)."""
        places = steps.last(low, high, STEPS_LAST)
        if not places:
            return
        segment = self.segments[-1]
        wanted = STEPS_FIRST - len(segment.steps_first)
        if wanted > 0:
            segment.steps_first += self._mark_steps(block, steps.first(low, high, wanted))
        marks = self._mark_steps(block, places)
        segment.steps_last.extend(marks)
        self._step = marks[-1]

    def _close_stretch(self, block: Block, steps: BlockSteps, high: int) -> None:
        """At the end of a block or segment: hand its new hits on, and give the waiting failures the steps that follow them."""
        segment = self.segments[-1]
        new = segment.new_marks()
        self._fresh += new
        segment.waiting += [m for m in new if segment.rows[m.row].wants_steps]
        if len(segment.waiting) > WAITING_MAX:
            segment.forget_waiting()
        if not steps.last(block.low, high, 1):
            return
        still, searched, places = [], 0, list[int]()
        for mark in segment.waiting:
            low = max(mark.start - block.base + 1, block.low)
            if low >= high:
                still.append(mark)
                continue
            if searched == 0 or (places and low > places[0]):
                searched, places = low, steps.first(low, high, STEPS_AFTER)
            mark.after += self._mark_steps(block, places[: STEPS_AFTER - len(mark.after)])
            if len(mark.after) < STEPS_AFTER:
                still.append(mark)
        segment.waiting = still

    def _take_samples(self, block: Block, steps: BlockSteps) -> None:
        while self._next_sample < block.high + block.base and len(self.samples) < SAMPLES_MAX:
            low = max(self._next_sample - block.base, block.low)
            places = steps.first(low, block.high, 1)
            if not places:
                return
            self.samples += self._mark_steps(block, places)
            self._next_sample = (self.samples[-1].start // SAMPLE_BYTES + 1) * SAMPLE_BYTES

    def _number(self, block: Block) -> None:
        """Give the new places their line numbers, counting the block's newlines on the way."""
        self._fresh.sort(key=lambda m: m.line_start)
        raw, place, number = block.raw, block.low, block.line_number
        for mark in self._fresh:
            index = mark.line_start - block.base
            if index > place:
                number += raw.count(b"\n", place, index)
                place = index
            mark.line_number = number
        block.line_number = number + raw.count(b"\n", place, block.high)
        self.newlines = block.line_number - 1
        self._fresh.clear()
