"""From kept places back to text: the windows around them, the head and the tail, read from the same snapshot.

Hold in mind: the budget is spent on the best places first (last attempt first, first and last hits of a row first), and a place whose
text no longer matches tells that the file was changed in between.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from attr_actors.core import sparse
from attr_actors.core.blocks import CUT_BYTES, OVERLAP_BYTES, SEPARATORS
from attr_actors.core.keeping import Mark, SegmentHits
from attr_actors.core.scanning import Scanning
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.library import Signature
from attr_actors.core.signatures.matching import ROW_BITS, ROW_MASK, SAME_DIGITS
from attr_actors.core.source import Source
from attr_actors.core.sparse import Piece

PAGE_BYTES = 4_096
PAGES_MAX = 2_048
"""8 MiB is read back at most: four times the text that is kept."""
WHOLE_BYTES = 1 << 16
"""A log up to this size is kept whole, if it has no more pieces than are allowed."""
WINDOWS_PER_ROW = 16
LEAD_CHARS = 256
"""So much of an overlong piece is kept before its first match."""


class Window(NamedTuple):
    """A place and how many pieces around it are wanted, within so many bytes on each side."""

    mark: Mark
    before: int
    after: int

    @property
    def reach(self) -> tuple[int, int]:
        """Return the offsets that have to be read."""
        mark = self.mark
        if mark.is_long:
            return max(0, mark.start - OVERLAP_BYTES), mark.start + CUT_BYTES
        return max(0, mark.start - _budget(self.before)), mark.start + _budget(self.after)


def _budget(pieces: int) -> int:
    if not pieces:
        return PAGE_BYTES
    return sparse.WINDOW_BYTES if pieces <= 30 else 4 * sparse.WINDOW_BYTES


class Extent:
    """A stretch of the text that was read back, with a place in it whose line is known."""

    def __init__(self, start: int, raw: bytes) -> None:
        self.start = start
        self.raw = raw
        self.text = raw.translate(SEPARATORS)
        self.anchors: list[tuple[int, int, int]] = []
        """(offset, line start, line number)"""


def collect_pieces(found: Scanning, source: Source, database: Database) -> tuple[list[Piece], str | None]:
    """Return the pieces to keep, in order, and what was wrong with the file."""
    total = found.bytes_read
    if total <= WHOLE_BYTES:
        whole = _Collector(database, [Extent(0, b"".join(_read_ranges(source, [(0, total)])))])
        whole.extents[0].anchors.append((0, 0, 1))
        if whole.take_all():
            return whole.pieces(), None if len(whole.extents[0].raw) == total else "the file changed while it was read"
    ends = [(0, min(total, sparse.HEAD_BYTES)), (max(0, total - sparse.TAIL_BYTES), total)]
    windows = _affordable(_windows(found, database.rows), ends)
    ranges = _merge([*ends, *(w.reach for w in windows)], total)
    collector = _Collector(database, [Extent(low, raw) for (low, _), raw in zip(ranges, _read_ranges(source, ranges), strict=True)])
    collector.anchor(found, windows)
    collector.take_forward(0, sparse.HEAD_PIECES, sparse.HEAD_BYTES)
    collector.take_backward(total, sparse.TAIL_PIECES, sparse.TAIL_BYTES)
    for window in windows:
        collector.take_window(window)
    return collector.pieces(), "the file changed while it was read" if collector.has_changed else None


def _windows(found: Scanning, rows: Sequence[Signature]) -> list[Window]:
    """Return all wanted windows, the most wanted first."""
    ranked: list[tuple[int, int, Window]] = []
    for age, segment in enumerate(reversed(found.segments)):
        for step in (segment.start, *segment.steps_first, *segment.steps_last):
            ranked.append((age, -1, Window(step, 0, 0)))
        for row, rank, mark in _ranked_marks(segment):
            is_wide = rank < WINDOWS_PER_ROW
            ranked.append((age, rank, Window(mark, rows[row].before if is_wide else 0, rows[row].after if is_wide else 0)))
            if is_wide:
                around = ([mark.before] if mark.before else []) + mark.after
                ranked += [(age, rank, Window(step, 0, 0)) for step in around]
    ranked += [(len(found.segments), 0, Window(mark, 0, 0)) for mark in found.samples]
    ranked.sort(key=lambda item: item[:2])
    return [window for _, _, window in ranked]


def _ranked_marks(segment: SegmentHits) -> Iterator[tuple[int, int, Mark]]:
    for row, kept in segment.rows.items():
        yield from ((row, rank, mark) for rank, mark in enumerate(kept.first))
        yield from ((row, rank, mark) for rank, mark in enumerate(reversed(kept.last)))
        yield from ((row, rank, mark) for rank, mark in enumerate(reversed(kept.bursts)))


def _affordable(windows: Iterable[Window], ends: Sequence[tuple[int, int]]) -> list[Window]:
    pages: set[int] = set()
    for low, high in ends:
        pages.update(range(low // PAGE_BYTES, high // PAGE_BYTES + 1))
    chosen = []
    for window in windows:
        low, high = window.reach
        wanted = range(low // PAGE_BYTES, high // PAGE_BYTES + 1)
        if len(pages) + len(wanted) > PAGES_MAX and not pages.issuperset(wanted):
            continue
        pages.update(wanted)
        chosen.append(window)
    return chosen


def _merge(ranges: Iterable[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        high = min(high, total)
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _read_ranges(source: Source, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Read stretches of the text; what cannot be sought is streamed once more."""
    if source.is_seekable:
        return [source.read_at(low, high) for low, high in ranges]
    parts = [bytearray() for _ in ranges]
    stream, buffer, position, current = source.open(), memoryview(bytearray(1 << 20)), 0, 0
    while current < len(ranges) and (count := stream.readinto(buffer)):
        while current < len(ranges) and ranges[current][0] < position + count:
            low, high = ranges[current]
            parts[current] += buffer[max(0, low - position) : min(count, high - position)]
            if high > position + count:
                break
            current += 1
        position += count
    return [bytes(part) for part in parts]


class _Collector:
    """Chooses pieces of the extents within the limits, then makes values of them."""

    def __init__(self, database: Database, extents: list[Extent]) -> None:
        self.extents = extents
        self.has_changed = False
        self._database = database
        self._starts = [extent.start for extent in extents]
        self._chosen: dict[int, tuple[int, int]] = {}
        """Offset of a piece's first byte -> (offset of its end, index of its extent)."""
        self._bytes = 0
        self._exceptions: dict[tuple[int, bytes], bool] = {}

    def anchor(self, found: Scanning, windows: Sequence[Window]) -> None:
        """Note in each extent the lines whose numbers are known."""
        known = [(0, 0, 1)] + [(w.mark.start, w.mark.line_start, w.mark.line_number) for w in windows]
        for place in known:
            self._extent(place[0]).anchors.append(place)
        last = self.extents[-1]
        newline = last.raw.rfind(b"\n")
        if newline >= 0:
            # What follows the last newline is the last line; its number is one more than there are newlines.
            last.anchors.append((last.start + newline + 1, last.start + newline + 1, found.newlines + 1))
        for extent in self.extents:
            extent.anchors.sort()

    def _extent(self, offset: int) -> Extent:
        return self.extents[max(0, bisect_right(self._starts, offset) - 1)]

    def take_all(self) -> bool:
        """Choose every piece of the first extent; False (and nothing) if they are too many."""
        extent = self.extents[0]
        if extent.text.count(b"\n") > 4 * sparse.PIECES_MAX:
            return False
        self.take_forward(extent.start, sparse.PIECES_MAX + 1, len(extent.raw) + 1)
        if len(self._chosen) > sparse.PIECES_MAX:
            self._chosen.clear()
            return False
        return True

    def take_forward(self, offset: int, pieces: int, size: int) -> None:
        """Choose pieces from a piece's start on."""
        extent = self._extent(offset)
        low = offset - extent.start
        stop = min(len(extent.text), low + size)
        while pieces and low < stop:
            high = extent.text.find(b"\n", low)
            high = len(extent.text) if high < 0 else high
            pieces -= self._choose(extent, low, high)
            low = high + 1

    def take_backward(self, offset: int, pieces: int, size: int) -> None:
        """Choose pieces that end before an offset, which is one after a separator or the end of the text."""
        extent = self._extent(max(0, offset - 1))
        high = offset - extent.start
        stop = max(0, high - size)
        if high and extent.text[high - 1 : high] == b"\n":
            high -= 1
        while pieces and high > stop:
            low = extent.text.rfind(b"\n", 0, high) + 1
            if low == 0 and extent.start:
                return  # Its beginning is not in the extent.
            pieces -= self._choose(extent, low, high)
            high = low - 1

    def take_window(self, window: Window) -> None:
        """Choose a place's piece and those around it."""
        mark = window.mark
        extent = self._extent(mark.start)
        low = mark.start - extent.start
        high = extent.text.find(b"\n", low)
        high = len(extent.text) if high < 0 else high
        if mark.row >= 0 and (mark.is_long or high - low > sparse.PIECE_CHARS_MAX):
            low, high = self._around_match(extent, mark, low, min(high, low + CUT_BYTES))
        self._choose(extent, low, high)
        if window.before:
            self.take_backward(mark.start, window.before, _budget(window.before))
        if window.after and not mark.is_long:
            self.take_forward(extent.start + high + 1, window.after, _budget(window.after))

    def _around_match(self, extent: Extent, mark: Mark, low: int, high: int) -> tuple[int, int]:
        overlap = max(0, low - OVERLAP_BYTES) if mark.is_long and mark.start > mark.line_start else low
        overlap = max(overlap, extent.text.rfind(b"\n", 0, low) + 1)
        found = self._database.rows[mark.row].pattern.search(extent.text, overlap, high)
        if found is None:
            self.has_changed = True
            return low, high
        return max(low if found.start() >= low else overlap, found.start() - LEAD_CHARS), high

    def _choose(self, extent: Extent, low: int, high: int) -> int:
        """Choose one piece; return how many were chosen (blank pieces do not count)."""
        start = low + extent.start
        if not 0 <= low < high <= len(extent.raw) or extent.raw[low:high].isspace():
            return 0
        if start not in self._chosen and len(self._chosen) <= sparse.PIECES_MAX and self._bytes <= sparse.TEXT_BYTES_MAX:
            high = min(high, low + sparse.PIECE_CHARS_MAX)
            self._chosen[start] = (high + extent.start, bisect_right(self._starts, start) - 1)
            self._bytes += high - low
        return 1

    def pieces(self) -> list[Piece]:
        """Return the chosen pieces in order, with their lines and all rows that match them."""
        made: list[Piece] = []
        chosen = sorted((start, end, index) for start, (end, index) in self._chosen.items())
        texts = [self.extents[i].text[s - self.extents[i].start : e - self.extents[i].start] for s, e, i in chosen]
        rows = self._match(texts)
        cursor = _LineCursor()
        for (start, _, index), text, matching in zip(chosen, texts, rows, strict=True):
            line = cursor.find(self.extents[index], start)
            if line is not None:
                made.append(Piece(line[1], line[0], start, text.decode("utf-8", "replace"), matching))
        return made

    def _match(self, texts: Sequence[bytes]) -> list[tuple[int, ...]]:
        found: list[list[int]] = [[] for _ in texts]
        index, stop = -1, -1
        for event in self._database.everything.find(b"\n".join(texts))[0]:
            end, row = event >> ROW_BITS, event & ROW_MASK
            while end > stop:
                index += 1
                stop += 1 + len(texts[index])
            if row not in found[index] and not self._is_exception(row, texts[index]):
                found[index].append(row)
        return [tuple(sorted(rows)) for rows in found]

    def _is_exception(self, row: int, text: bytes) -> bool:
        """Tell whether a row's exception takes a text out; texts that differ in digits only are judged once, where digits do not matter."""
        exception = self._database.rows[row].exception
        if exception is None:
            return False
        key = row, text if row in self._database.sensitive else text.translate(SAME_DIGITS)
        if key not in self._exceptions:
            self._exceptions[key] = exception.search(text) is not None
        return self._exceptions[key]


class _LineCursor:
    """Tells the line of ever later offsets, counting newlines from the nearest known line."""

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self._line = (0, 0)
        self._place = 0

    def find(self, extent: Extent, offset: int) -> tuple[int, int] | None:
        """Return the offset of the line's first byte and its number; None if the line began before the extent and is not known."""
        if extent is not self._extent:
            self._extent = extent
            if not extent.anchors:
                return None
            place, start, number = extent.anchors[0]
            self._place, self._line = place, (start, number)
        raw, base = extent.raw, extent.start
        low, high = sorted((self._place - base, offset - base))
        newlines = raw.count(b"\n", low, high)
        start, number = self._line
        if newlines:
            newline = raw.rfind(b"\n", 0, offset - base)
            if newline < 0 and base:
                return None
            start = newline + 1 + base
            number += newlines if offset > self._place else -newlines
        self._place, self._line = offset, (start, number)
        return start, number
