"""Where the completed steps are. They match nearly every line of a steady log, so they are looked for only where they matter.

Hold in mind: ``last()`` and ``first()`` give exactly what a search through the whole stretch would give; they only start at the
right end of it and widen until they have enough. Steps in overlong pieces do not count. What a row excepts (``unless``) is not asked
here: a steady log would pay for it on each line, and a line too many among the kept ones is judged by whoever reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import accumulate

from attr_actors.core.blocks import CUT_BYTES, Block
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.matching import ROW_BITS

WINDOW_BYTES = 1_024
EVENTS_MANY = 500
"""From so many on, all piece starts are found in bulk."""


class BlockSteps:
    """The steps of one block; results are indices of the first byte of their pieces."""

    def __init__(self, block: Block, database: Database) -> None:
        self._block = block
        self._matcher = database.progress
        self._all: list[int] | None = None

    def find_all(self) -> None:
        """Search the block once, because many questions are to come."""
        if self._all is None:
            self._all = self._search(self._block.low, self._block.high)

    def find_few(self) -> None:
        """Search the block once if there are few steps in it."""
        block = self._block
        if self._all is None and not self._matcher.find(memoryview(block.text)[block.low : block.high], EVENTS_MANY)[1]:
            self.find_all()

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
                begin, piece_end = block.piece_bounds(end)
                if begin >= low and piece_end - begin < CUT_BYTES:
                    found.append(begin)
        return found

    def _search_bulk(self, low: int, high: int, events: list[int]) -> list[int]:
        lengths = list(map(len, bytes(memoryview(self._block.text)[low:high]).split(b"\n")))
        starts = list(accumulate(map((1).__add__, lengths), initial=low))
        places = dict.fromkeys(map(partial(bisect_left, starts), [low + (event >> ROW_BITS) for event in events]))
        if self._block.text[low - 1] != 0x0A:
            places.pop(1, None)  # The end of an overlong piece.
        return [starts[place - 1] for place in places if lengths[place - 1] < CUT_BYTES]
