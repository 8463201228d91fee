"""Where the completed steps are. They match nearly every line of a steady log, so they are looked for only where they matter.

Hold in mind: ``last()`` and ``first()`` give exactly what a search through the whole stretch would give; they only start at the
right end of it and widen until they have enough. Steps in overlong pieces do not count.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import accumulate

from attr_actors.core.blocks import CUT_BYTES, Block
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK

WINDOW_BYTES = 4_096
EVENTS_MANY = 500
"""From so many on, all piece starts are found in bulk."""


class BlockSteps:
    """The steps of one block; results are indices of the first byte of their pieces."""

    def __init__(self, block: Block, database: Database) -> None:
        self._block = block
        self._matcher = database.progress
        self._rows = database.rows
        self._all: list[int] | None = None

    def find_all(self) -> None:
        """Search the block once, because many questions are to come."""
        if self._all is None:
            self._all = self._search(self._block.low, self._block.high)

    def know(self, places: list[int]) -> None:
        """Take over all steps of the block, found along with something else."""
        self._all = places

    @property
    def all(self) -> list[int]:
        """Return every step of the block."""
        self.find_all()
        return self._all or []

    def last(self, low: int, high: int, count: int) -> list[int]:
        """Return up to ``count`` steps nearest to the end of a stretch of whole pieces, in order."""
        if self._all is not None:
            return self._all[bisect_left(self._all, low) : bisect_left(self._all, high)][-count:]
        size = WINDOW_BYTES
        while True:
            begin = self._piece_begin(high - size, low)
            found = self._search(begin, high)
            if len(found) >= count or begin == low:
                return found[-count:]
            size *= 8

    def first(self, low: int, high: int, count: int) -> list[int]:
        """Return up to ``count`` steps nearest to the start of a stretch of whole pieces, in order."""
        if self._all is not None:
            return self._all[bisect_left(self._all, low) : bisect_left(self._all, high)][:count]
        size = WINDOW_BYTES
        while True:
            end = self._piece_end(low + size, high)
            found = self._search(low, end)
            if len(found) >= count or end == high:
                return found[:count]
            size *= 8

    def _piece_begin(self, index: int, low: int) -> int:
        return low if index <= low else max(low, self._block.text.rfind(b"\n", low, index) + 1)

    def _piece_end(self, index: int, high: int) -> int:
        end = self._block.text.find(b"\n", index, high) if index < high else -1
        return high if end < 0 else end

    def _search(self, low: int, high: int) -> list[int]:
        block, found, piece_end = self._block, list[int](), -1
        events = self._matcher.find(memoryview(block.text)[low:high])[0]
        if len(events) > EVENTS_MANY:
            return self._search_bulk(low, high, events)
        for event in events:
            end = (event >> ROW_BITS) + low
            if end > piece_end:
                begin, stop = block.piece_bounds(end)
                if begin < low or stop - begin >= CUT_BYTES:
                    piece_end = stop
                elif self._is_step(event & ROW_MASK, begin, stop):
                    found.append(begin)
                    piece_end = stop
        return found

    def _search_bulk(self, low: int, high: int, events: list[int]) -> list[int]:
        lengths = list(map(len, bytes(memoryview(self._block.text)[low:high]).split(b"\n")))
        starts = list(accumulate(map((1).__add__, lengths), initial=low))
        places = map(partial(bisect_left, starts), [low + (event >> ROW_BITS) for event in events])
        found: dict[int, None] = {}
        for place, event in zip(places, events, strict=True):
            begin = starts[place - 1]
            if begin not in found and lengths[place - 1] < CUT_BYTES and self._is_step(event & ROW_MASK, begin, begin + lengths[place - 1]):
                found[begin] = None
        if self._block.text[low - 1] != 0x0A:
            found.pop(low, None)  # The end of an overlong piece.
        return list(found)

    def _is_step(self, row: int, begin: int, end: int) -> bool:
        exception = self._rows[row].exception
        return exception is None or not exception.search(self._block.text, begin, end)
