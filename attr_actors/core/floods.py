"""Blocks in which hits are everywhere: found in bulk, because ten million lines leave no time for each.

Hold in mind: the result is the same as piece by piece. Lines that differ in digits only are judged once (rows that name certain digits
are looked for apart); where nearly every line is new, the automaton's events are sorted in bulk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, compress

from attr_actors.core.blocks import CUT_BYTES, Block
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.library import Role
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK, is_digit_sensitive

SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
MEMO_MAX = 20_000
MEMO_LINE_BYTES_MAX = 1_000
NEW_LINES_SHARE = 3
"""With more than one new line in three, remembering them costs more than it saves."""

BulkHits = dict[int, list[int]]
"""Row -> indices of the first bytes of the pieces that match it, in order."""


class FloodFinder:
    """Finds the hits of dense blocks of one stream."""

    def __init__(self, database: Database) -> None:
        rows = database.rows
        self._database = database
        self._exceptions = [row.exception for row in rows]
        self._sensitive = frozenset(i for i, r in enumerate(rows) if is_digit_sensitive(r.regex) or is_digit_sensitive(r.unless))
        self._progress = frozenset(i for i, row in enumerate(rows) if row.role is Role.ITERATION)
        self._memo: dict[bytes, tuple[int, ...]] = {}

    def find(self, block: Block) -> tuple[BulkHits, list[int] | None] | None:
        """Return all hits of the new text and, if they came along, its steps; None if a piece is overlong."""
        text = bytes(memoryview(block.text)[block.low : block.high])
        keys = text.translate(SAME_DIGITS).split(b"\n")
        lengths = list(map(len, keys))
        if max(lengths) >= CUT_BYTES or block.text[block.low - 1] != 0x0A:
            return None
        starts = list(accumulate(map((1).__add__, lengths), initial=block.low))
        new = set(keys).difference(self._memo)
        if len(new) * NEW_LINES_SHARE > len(keys):
            return self._from_events(block, starts, self._database.events.find(block.scannable)[0]), None
        self._judge(list(new))
        found = self._spread(starts, list(map(self._memo.__getitem__, keys)))
        events = self._database.digits.find(block.scannable)[0]
        found.update(self._from_events(block, starts, events))
        steps = None
        if self._progress.isdisjoint(self._sensitive):
            steps = sorted({start for row in self._progress for start in found.pop(row, ())})
        if len(self._memo) > MEMO_MAX:
            self._memo.clear()
        return found, steps

    def _judge(self, keys: Sequence[bytes]) -> None:
        """Remember which rows match each key; digits do not matter to them."""
        ends = list(accumulate(map((1).__add__, map(len, keys))))
        rows: defaultdict[int, list[int]] = defaultdict(list)
        text = b"\n".join(keys)
        for event in self._database.events.find(text)[0] + self._database.progress.find(text)[0]:
            row = event & ROW_MASK
            if row not in self._sensitive:
                place = bisect_right(ends, (event >> ROW_BITS) - 1)
                if row not in rows[place] and not self._is_exception(row, keys[place], 0, len(keys[place])):
                    rows[place].append(row)
        for place, key in enumerate(keys):
            self._memo[key] = tuple(sorted(rows[place])) if place in rows else ()

    def _spread(self, starts: Sequence[int], found: Sequence[tuple[int, ...]]) -> BulkHits:
        hits: defaultdict[int, list[int]] = defaultdict(list)
        for rows in set(found):
            if rows:
                places = list(compress(starts, map(rows.__eq__, found)))
                for row in rows:
                    hits[row] += places
        for merged in hits.values():
            merged.sort()
        return hits

    def _from_events(self, block: Block, starts: Sequence[int], events: Sequence[int]) -> BulkHits:
        hits: BulkHits = {}
        find_place = partial(bisect_left, starts)
        events = events[bisect_left(events, (block.low + 1) << ROW_BITS) :]
        before = [0, *starts]
        for row in set(map(ROW_MASK.__and__, events)):
            ends = [event >> ROW_BITS for event in events if event & ROW_MASK == row]
            places = list(map(before.__getitem__, dict.fromkeys(map(find_place, ends))))
            if self._exceptions[row] is not None:
                places = [start for start in places if not self._is_exception(row, block.text, *block.piece_bounds(start))]
            if places:
                hits[row] = places
        return hits

    def _is_exception(self, row: int, text: bytes | bytearray, low: int, high: int) -> bool:
        exception = self._exceptions[row]
        return exception is not None and exception.search(text, low, high) is not None
