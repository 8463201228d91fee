"""Dense blocks whose rows were counted long enough: only those hits are found that may be kept, the rest is passed over.

Hold in mind: a block without steps is one burst. Of a muted row its first and its last hits are wanted, wherever they are; of all
other rows every hit is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from attr_actors.core.blocks import Block
from attr_actors.core.keeping import BURST_HITS
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK

PART_BYTES = 1 << 14

BulkHits = dict[int, list[int]]
"""Row -> indices of the first bytes of the pieces that match it, in order."""


class MutedParts:
    """A block in parts of whole pieces; which rows a part holds is cheap to know, where they are is not."""

    def __init__(self, block: Block, starts: Sequence[int], database: Database, sort: Callable[[Sequence[int]], BulkHits]) -> None:
        """``starts`` are those of the pieces; ``sort`` makes hits of the automaton's events."""
        cuts = {starts[bisect_left(starts, low)] for low in range(block.low, block.high, PART_BYTES)} | {block.high}
        self._parts = list(pairwise(sorted(cuts)))
        self._view = memoryview(block.text)
        self._matcher = database.events
        self._sort = sort
        self._rows = [{event & ROW_MASK for event in database.once.find(self._view[low:high])[0]} for low, high in self._parts]
        self._found: dict[int, BulkHits] = {}

    def find(self, quotas: Mapping[int, int]) -> tuple[BulkHits, frozenset[int]]:
        """Return the hits, and the rows of which some may have been passed over; ``quotas`` as for ``FloodFinder.find()``."""
        for place, rows in enumerate(self._rows):
            if not rows <= quotas.keys():
                self._read(place)
        places = range(len(self._parts))
        self._read_until(places, dict.fromkeys(quotas, BURST_HITS))
        self._read_until(reversed(places), dict(quotas))
        hits: defaultdict[int, list[int]] = defaultdict(list)
        for place in sorted(self._found):
            for row, starts in self._found[place].items():
                hits[row] += starts
        passed = (rows for place, rows in enumerate(self._rows) if place not in self._found)
        return dict(hits), frozenset[int]().union(*passed)

    def _read_until(self, places: Iterable[int], wanted: dict[int, int]) -> None:
        """Read parts in an order until so many hits of each row are found."""
        for place in places:
            if any(wanted[row] > 0 for row in self._rows[place] & wanted.keys()):
                for row, starts in self._read(place).items():
                    wanted[row] = wanted.get(row, 0) - len(starts)

    def _read(self, place: int) -> BulkHits:
        if place not in self._found:
            low, high = self._parts[place]
            self._found[place] = self._sort([event + (low << ROW_BITS) for event in self._matcher.find(self._view[low:high])[0]])
        return self._found[place]
