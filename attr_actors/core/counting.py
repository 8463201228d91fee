"""How many lines a group of events stands for, those that the scan counted but did not keep included.

Hold in mind: a count is exact or says that it is the least. The scan counts the lines of each row between two attempt starts; which
group a line that was not kept would belong to is told by the kept ones: if all kept lines of the row are in one group, so are the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attr_actors.core.evidence import Evidence
from attr_actors.core.sparse import Segment

ANY_EXCEPTION = "any_exception"


class GroupCounter:
    """Counts the lines of one attempt's groups."""

    def __init__(self, evidence: Evidence, segments: Sequence[Segment]) -> None:
        lines, first, last = evidence.lines, evidence.first, evidence.last
        begin = lines[first].number if first else 1
        end = lines[last].number if last < len(lines) else None
        bounds = [*(s.line_number for s in segments[1:]), None]
        spans = list(zip(segments, bounds, strict=True))
        own = [(s, stop) for s, stop in spans if (stop is None or stop > begin) and (end is None or s.line_number < end)]
        self._segments = [segment for segment, _ in own]
        self._is_aligned = bool(own) and own[0][0].line_number >= begin and own[-1][1] == end
        low, high = (own[0][0].line_number, own[-1][1]) if own else (begin, end)
        self._kept: dict[int, set[int]] = {}
        for line in lines:
            if line.number >= low and (high is None or line.number < high):
                for row in line.piece.rows:
                    self._kept.setdefault(row, set()).add(line.number)
        self._rows = {row.id: index for index, row in enumerate(evidence.rows)}

    def count(self, signature: str, group: Collection[int], root: int | None) -> tuple[int, bool]:
        """Return how many lines a group stands for and whether there may be more.

        ``group`` holds the line numbers of its kept events; the ``root``'s line is no part of it. A row that the scan does not
        look for is counted by that of any exception.
        """
        row = self._rows.get(signature, -1)
        if not self._counted(row):
            row = self._rows.get(ANY_EXCEPTION, -1)
        kept = self._kept.get(row, set())
        unkept = self._counted(row) - len(kept)
        is_muted = any(row in segment.muted for segment in self._segments)
        if unkept <= 0:
            return len(group), is_muted
        if not self._is_aligned or not kept <= {*group, root}:
            return len(group), True
        return len(group) + unkept, is_muted

    def _counted(self, row: int) -> int:
        return sum(segment.counts.get(row, 0) for segment in self._segments)
