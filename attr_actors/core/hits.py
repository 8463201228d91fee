"""Which pieces of a block match which rows: one hit per piece and row, exact.

Hold in mind: the automaton's word is final for ordinary pieces. Rows with ``unless`` and overlong pieces are decided by ``re`` on the
same bytes, whatever the size of the reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from attr_actors.core.blocks import CUT_BYTES, OVERLAP_BYTES, Block
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK

PARTS_MAX = 4
"""So many parts of one overlong piece are hits of a row; a gigabyte without a line end is still one line."""

WAKES_MAX = 2_000
"""With more wakes in a block it is cheaper to read it whole than piece by piece; with more events, to find them in bulk."""
FLOOD_BLOCKS = 16
"""After a block with too many events so many more are taken in bulk at once: the answer is the same, only the way is chosen by it."""


class Hit(NamedTuple):
    """A row matches the piece (or the part of an overlong one) that starts at this index of the block."""

    start: int
    row: int
    is_long: bool = False


class HitFinder:
    """Finds the hits of one stream, block after block."""

    def __init__(self, database: Database) -> None:
        rows = database.rows
        self._rows = rows
        self._matcher = database.events
        self._once = database.once
        self._gate = database.gate
        self._exceptions = [row.exception for row in rows]
        self._flood_left = 0
        self._long_start = -1
        self._long_hits: dict[int, int] = {}

    def find(self, block: Block) -> list[Hit] | None:
        """Return the hits of a block in the order of their pieces, or None if they are so many that they should be found in bulk."""
        if self._flood_left:
            self._flood_left -= 1
            return None
        wakes, are_many = self._gate.find(block.scannable, WAKES_MAX) if self._gate else ([], True)
        if are_many:
            return self._find_bounded(block)
        pieces = self._wake_pieces(block, wakes)
        if not pieces:
            return self.find_each(block) if wakes else []
        return self._find_in(block, pieces)

    def _find_bounded(self, block: Block) -> list[Hit] | None:
        if _has_overlong(block):
            return self.find_each(block)
        events, are_many = self._matcher.find(block.scannable, WAKES_MAX)
        if are_many:
            self._flood_left = FLOOD_BLOCKS
            return None
        return self._sort_out(block, events)

    def _wake_pieces(self, block: Block, wakes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the pieces in which the gate woke; none if one of them is overlong."""
        pieces, stop, low = list[tuple[int, int]](), -1, block.low
        for wake in wakes:
            end = wake >> ROW_BITS
            if end > stop and end > low:
                begin, stop = block.piece_bounds(end)
                if stop - begin >= CUT_BYTES:
                    return []
                pieces.append((begin, stop))
        return pieces

    def _find_in(self, block: Block, pieces: Sequence[tuple[int, int]]) -> list[Hit]:
        text, hits = block.text, list[Hit]()
        place, stop, begin, seen = -1, -1, 0, set[int]()
        for event in self._matcher.find(b"\n".join([text[low:high] for low, high in pieces]))[0]:
            end = event >> ROW_BITS
            while end > stop:
                place += 1
                begin, high = pieces[place]
                stop += 1 + high - begin
                seen = set()
            row = event & ROW_MASK
            if row not in seen:
                seen.add(row)
                if (exception := self._exceptions[row]) is None or not exception.search(text, begin, pieces[place][1]):
                    hits.append(Hit(begin, row))
        return hits

    def find_each(self, block: Block) -> list[Hit]:
        """Return the hits of a block, however many, one by one."""
        if not _has_overlong(block):
            return self._sort_out(block, self._matcher.find(block.scannable)[0])
        hits, place, view = list[Hit](), block.low, memoryview(block.text)
        for begin, stop in _overlong_pieces(block):
            hits += self._sort_out(block, _shifted(self._matcher.find(view[place : max(begin, place)])[0], place))
            for part in range(max(begin, block.low), stop, CUT_BYTES):
                hits += self._find_in_part(block, begin, part, min(part + CUT_BYTES, stop))
            place = stop
        return hits + self._sort_out(block, _shifted(self._matcher.find(view[place : block.high])[0], place))

    def _sort_out(self, block: Block, events: Sequence[int]) -> list[Hit]:
        hits: list[Hit] = []
        low, begin, stop, seen = block.low, 0, -1, set[int]()
        for event in events:
            end = event >> ROW_BITS
            if end <= low:
                continue
            if end > stop:
                begin, stop = block.piece_bounds(end)
                seen = set()
            row = event & ROW_MASK
            if row not in seen:
                seen.add(row)
                if (exception := self._exceptions[row]) is None or not exception.search(block.text, begin, stop):
                    hits.append(Hit(begin, row))
        return hits

    def _find_in_part(self, block: Block, piece: int, begin: int, stop: int) -> list[Hit]:
        """Return the hits of one part of an overlong piece, which begins at ``piece``."""
        if piece + block.base != self._long_start:
            self._long_start, self._long_hits = piece + block.base, {}
        text = memoryview(block.text)[max(begin - OVERLAP_BYTES, piece, 0) : stop]
        rows = {event & ROW_MASK for event in self._once.find(text)[0]}
        wanted = sorted(row for row in rows if self._long_hits.get(row, 0) < PARTS_MAX)
        return [Hit(begin, row, True) for row in wanted if self._matches_part(block, row, piece, begin, stop)]

    def _matches_part(self, block: Block, row: int, piece: int, begin: int, stop: int) -> bool:
        """Tell whether a match ends inside a part. One that ends at a cut is none: whether the piece ends there may not be known yet."""
        low = max(begin - OVERLAP_BYTES, piece)
        ends = (found.end() for found in self._rows[row].pattern.finditer(block.text, low, stop))
        if not any(begin < end < begin + CUT_BYTES for end in ends):
            return False
        exception = self._exceptions[row]
        if exception is not None and exception.search(block.text, low, stop):
            return False
        self._long_hits[row] = self._long_hits.get(row, 0) + 1
        return True


def _has_overlong(block: Block) -> bool:
    """Tell whether a block may hold a part of an overlong piece: such a piece is cut, or long enough to hold one of these windows."""
    text, half = block.text, CUT_BYTES // 2
    windows = range(block.low, block.high - half + 1, half)
    return text[block.low - 1] != 0x0A or any(text.find(b"\n", low, low + half) < 0 for low in windows)


def _overlong_pieces(block: Block) -> list[tuple[int, int]]:
    """Return where overlong pieces begin (perhaps before the block) and end (perhaps behind it)."""
    begin = block.piece_bounds(block.low)[0]
    text = bytes(memoryview(block.text)[block.low : block.high])
    stops = accumulate(map((1).__add__, map(len, text.split(b"\n"))), initial=block.low - 1)
    found, _ = [], next(stops)
    for stop in stops:
        if stop - begin >= CUT_BYTES:
            found.append((begin, stop))
        begin = stop + 1
    return found


def _shifted(events: Sequence[int], low: int) -> list[int]:
    return [event + (low << ROW_BITS) for event in events]
