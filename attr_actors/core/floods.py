"""Blocks in which hits are everywhere: found in bulk, because ten million lines leave no time for each.

Hold in mind: the result is the same as piece by piece. Lines that differ in digits only are judged once (rows that name certain digits
are looked for apart); where nearly every line is new, the automaton's events are sorted in bulk, and once a row has been counted long
enough, only those of its hits are found that may be kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, compress
from typing import NamedTuple

from attr_actors.core.blocks import CUT_BYTES, Block
from attr_actors.core.muting import BulkHits, MutedParts
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.library import Role
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK, SAME_DIGITS

MEMO_MAX = 20_000
KINDS_MAX = 256
"""A kind is a byte; no log has so many combinations of rows."""
NONE = bytes(256)
NEW_LINES_SHARE = 3
"""With more than one new line in three, remembering them costs more than it saves."""

NEW_BLOCKS = 16
"""After a block of new lines so many more are not looked up: the answer is the same, only the way is chosen by it."""


class Flood(NamedTuple):
    """What a dense block holds: its hits, its steps if they came along, and the rows of which some hits were passed over."""

    hits: BulkHits
    steps: list[int] | None = None
    muted: frozenset[int] = frozenset()


class FloodFinder:
    """Finds the hits of dense blocks of one stream."""

    def __init__(self, database: Database) -> None:
        rows = database.rows
        self._database = database
        self._exceptions = [row.exception for row in rows]
        self._sensitive = database.sensitive
        self._progress = frozenset(i for i, row in enumerate(rows) if row.role is Role.ITERATION)
        self._memo: dict[bytes, int] = {}
        self._kinds: dict[tuple[tuple[int, ...], bool], int] = {}
        """(rows of a line, whether a row that names certain digits may match it as well) -> its number in the memo."""
        self._new_left = 0

    def find(self, block: Block, quotas: Mapping[int, int]) -> Flood | None:
        """Return the hits of the new text; None if a piece is overlong.

        ``quotas`` are rows that were counted long enough, and of how many last hits each must be found: the others may be passed over.
        """
        text = bytes(memoryview(block.text)[block.low : block.high])
        self._new_left = max(0, self._new_left - 1)
        keys = (text if self._new_left else text.translate(SAME_DIGITS)).split(b"\n")
        lengths = list(map(len, keys))
        if max(lengths) >= CUT_BYTES or block.text[block.low - 1] != 0x0A:
            return None
        starts = list(accumulate(map((1).__add__, lengths), initial=block.low))
        kinds = None if self._new_left else self._look_up(keys)
        if kinds is None:
            self._new_left = self._new_left or NEW_BLOCKS
            return self._find_new(block, starts, quotas)
        return self._find_known(block, starts, kinds)

    def _look_up(self, keys: Sequence[bytes]) -> bytes | None:
        """Return the kind of each line; None if too many are new to be worth a memory."""
        if len(self._kinds) <= KINDS_MAX:
            with suppress(KeyError):
                return bytes(map(self._memo.__getitem__, keys))
        new = set(keys).difference(self._memo)
        if len(new) * NEW_LINES_SHARE > len(keys):
            return None
        if len(self._memo) > MEMO_MAX or len(self._kinds) > KINDS_MAX:
            self._memo.clear()
            self._kinds.clear()
            new = set(keys)
        self._judge(list(new))
        return bytes(map(self._memo.__getitem__, keys)) if len(self._kinds) <= KINDS_MAX else None

    def _find_known(self, block: Block, starts: Sequence[int], kinds: bytes) -> Flood:
        found, is_sensitive = self._spread(starts, kinds)
        if is_sensitive:
            found.update(self._from_events(block, starts, self._database.digits.find(block.scannable)[0]))
        steps = None
        if self._progress.isdisjoint(self._sensitive):
            steps = sorted({start for row in self._progress for start in found.pop(row, ())})
        return Flood(found, steps)

    def _find_new(self, block: Block, starts: Sequence[int], quotas: Mapping[int, int]) -> Flood:
        if quotas and not self._database.progress.find(memoryview(block.text)[block.low : block.high], 0)[1]:
            parts = MutedParts(block, starts, self._database, partial(self._from_events, block, starts))
            hits, passed = parts.find(quotas)
            return Flood(hits, [], passed)
        return Flood(self._from_events(block, starts, self._database.events.find(block.scannable)[0]))

    def _judge(self, keys: Sequence[bytes]) -> None:
        """Remember which rows match each key; digits do not matter to them."""
        ends = list(accumulate(map((1).__add__, map(len, keys))))
        rows: defaultdict[int, list[int]] = defaultdict(list)
        text = b"\n".join(keys)
        for event in self._database.events.find(text)[0] + self._database.progress.find(text)[0]:
            row = event & ROW_MASK
            if row not in self._sensitive:
                place = bisect_right(ends, (event >> ROW_BITS) - 1)
                if row in self._progress or not self._is_exception(row, keys[place], 0, len(keys[place])):
                    rows[place].append(row)
        sensitive = {bisect_right(ends, (event >> ROW_BITS) - 1) for event in self._database.blurred.find(text)[0]}
        for place, key in enumerate(keys):
            kind = (tuple(sorted(set(rows[place]))) if place in rows else (), place in sensitive)
            self._memo[key] = self._kinds.setdefault(kind, len(self._kinds))

    def _spread(self, starts: Sequence[int], found: bytes) -> tuple[BulkHits, bool]:
        """Return the hits of lines whose kinds are known, and whether rows that name certain digits have to be looked for."""
        hits: defaultdict[int, list[int]] = defaultdict(list)
        present, is_sensitive = set(found), False
        for (rows, may_be_sensitive), kind in self._kinds.items():
            if kind in present:
                is_sensitive |= may_be_sensitive
                places = list(compress(starts, found.translate(NONE[:kind] + b"\1" + NONE[kind + 1 :]))) if rows else []
                for row in rows:
                    hits[row] += places
        for merged in hits.values():
            merged.sort()
        return hits, is_sensitive

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
