"""Which pieces of a block match which rows: one hit per piece and row, exact.

Hold in mind: the automaton's word is final for ordinary pieces. Rows with ``unless`` and overlong pieces are decided by ``re`` on the
same bytes, whatever the size of the reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from attr_actors.core.blocks import CUT_BYTES, OVERLAP_BYTES, Block
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK

PARTS_MAX = 4
"""So many parts of one overlong piece are hits of a row; a gigabyte without a line end is still one line."""

WAKES_MAX = 2_000
"""With more wakes in a block it is cheaper to read it whole than piece by piece."""


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
        self._gate = database.gate
        self._exceptions = [row.exception for row in rows]
        self._long_start = -1
        self._long_hits: dict[int, int] = {}

    def find(self, block: Block) -> list[Hit] | None:
        """Return the hits of a block in the order of their pieces, or None if they are so many that they should be found in bulk."""
        if self._gate is None:
            events, are_many = self._matcher.find(block.scannable, WAKES_MAX)
            return None if are_many else self._sort_out(block, events)
        wakes, are_many = self._gate.find(block.scannable, WAKES_MAX)
        if not wakes or are_many:
            return None if are_many else []
        pieces = self._wake_pieces(block, wakes)
        return self._find_in(block, pieces) if pieces else self.find_each(block)

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
        return self._sort_out(block, self._matcher.find(block.scannable)[0])

    def _sort_out(self, block: Block, events: Sequence[int]) -> list[Hit]:
        hits: list[Hit] = []
        low, begin, stop, seen = block.low, 0, -1, set[int]()
        is_overlong = False
        for event in events:
            end = event >> ROW_BITS
            if end <= low:
                continue
            if end > stop:
                begin, stop = block.piece_bounds(end)
                is_overlong = stop - begin >= CUT_BYTES
                if is_overlong:
                    piece, begin = begin, begin + (end - 1 - begin) // CUT_BYTES * CUT_BYTES
                    stop = min(stop, begin + CUT_BYTES)
                seen = set()
            row = event & ROW_MASK
            if row in seen:
                continue
            seen.add(row)
            if is_overlong:
                if not self._matches_part(block, row, piece, begin, stop):
                    continue
            elif (exception := self._exceptions[row]) is not None and exception.search(block.text, begin, stop):
                continue
            hits.append(Hit(begin, row, is_overlong))
        return hits

    def _matches_part(self, block: Block, row: int, piece: int, begin: int, stop: int) -> bool:
        """Tell whether a match ends inside a part. One that ends at a cut is none: whether the piece ends there may not be known yet."""
        if piece + block.base != self._long_start:
            self._long_start, self._long_hits = piece + block.base, {}
        if self._long_hits.get(row, 0) >= PARTS_MAX:
            return False
        low = max(begin - OVERLAP_BYTES, piece)
        ends = (found.end() for found in self._rows[row].pattern.finditer(block.text, low, stop))
        if not any(begin < end < begin + CUT_BYTES for end in ends):
            return False
        exception = self._exceptions[row]
        if exception is not None and exception.search(block.text, low, stop):
            return False
        self._long_hits[row] = self._long_hits.get(row, 0) + 1
        return True
