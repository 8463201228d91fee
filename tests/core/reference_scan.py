"""A slow, plain scanner of the same contract as the fast one. Hold in mind: it is the oracle of tests, simple before fast.

It holds the whole text in memory, matches every row on every piece with Python's ``re``, and then keeps what
``sparse.py`` describes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from attr_actors.core import sparse
from attr_actors.core.signatures.library import Role, Signature
from attr_actors.core.sparse import Piece, Scan, Segment

NEWLINE = re.compile(rb"\n")
Matcher = Callable[[bytes], tuple[int, ...]]
_ERRORS = frozenset({Role.HARDWARE, Role.SCHEDULER, Role.PRIMARY, Role.GENERIC, Role.CASCADE, Role.CONFIRMATION})
_PROGRESS_KEEP = {Role.ITERATION: (2, 4), Role.CHECKPOINT: (2, 8), Role.DONE: (2, 8)}


def match_with_re(rows: Sequence[Signature]) -> Matcher:
    """Return a matcher that tries every row on a piece."""

    def match(text: bytes) -> tuple[int, ...]:
        return tuple(i for i, row in enumerate(rows) if row.pattern.search(text) and not (row.exception and row.exception.search(text)))

    return match


def scan_bytes(data: bytes, rows: Sequence[Signature], match: Matcher | None = None) -> Scan:
    """Scan a text that is in memory."""
    match = match or match_with_re(rows)
    pieces = _split(data, match)
    spans = _segments(pieces, rows)
    kept: set[int] = _head_and_tail(pieces)
    for first, last in spans[: sparse.SEGMENTS_FIRST] + spans[max(sparse.SEGMENTS_FIRST, len(spans) - sparse.SEGMENTS_LAST) :]:
        kept |= _keep_segment(pieces, rows, first, last)
    segments = [_segment(pieces, first, last) for first, last in spans]
    chosen = [pieces[i] for i in sorted(kept)][-sparse.PIECES_MAX :]
    return Scan(chosen, segments, len(data), data.count(b"\n") + (not data.endswith(b"\n")), None)


def _split(data: bytes, match: Matcher) -> list[Piece]:
    pieces, offset = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        start = offset
        for part in line.split(b"\r"):
            clean = part.replace(b"\0", b"")
            if clean.strip():
                text = clean.decode("utf-8", "replace")[: sparse.PIECE_CHARS_MAX]
                pieces.append(Piece(number, offset, start, text, match(clean)))
            start += len(part) + 1
        offset += len(line) + 1
    return pieces


def _segments(pieces: Sequence[Piece], rows: Sequence[Signature]) -> list[tuple[int, int]]:
    cuts, eventful = [0], False
    for i, piece in enumerate(pieces):
        roles = {rows[r].role for r in piece.rows}
        if Role.ATTEMPT in roles and eventful:
            cuts.append(i)
            eventful = False
        if roles & (_ERRORS | {Role.ITERATION}):
            eventful = True
    return list(zip(cuts, [*cuts[1:], len(pieces)], strict=True))


def _segment(pieces: Sequence[Piece], first: int, last: int) -> Segment:
    counts: dict[int, int] = {}
    for piece in pieces[first:last]:
        for row in piece.rows:
            counts[row] = counts.get(row, 0) + 1
    if first >= len(pieces):
        return Segment(0, 1, counts)
    return Segment(pieces[first].byte_offset, pieces[first].line_number, counts)


def _head_and_tail(pieces: Sequence[Piece]) -> set[int]:
    if not pieces:
        return set()
    end = pieces[-1].start
    head = [i for i, p in enumerate(pieces[: sparse.HEAD_PIECES]) if p.start < sparse.HEAD_BYTES]
    tail_from = max(0, len(pieces) - sparse.TAIL_PIECES)
    tail = [i for i in range(tail_from, len(pieces)) if pieces[i].start > end - sparse.TAIL_BYTES]
    return {*head, *tail}


def _keep_segment(pieces: Sequence[Piece], rows: Sequence[Signature], first: int, last: int) -> set[int]:
    hits: dict[int, list[int]] = {}
    steps: list[int] = []
    for i in range(first, last):
        for row in pieces[i].rows:
            hits.setdefault(row, []).append(i)
            if rows[row].role is Role.ITERATION:
                steps.append(i)
    kept: set[int] = set()
    errors: set[int] = set()
    for row, places in hits.items():
        role = rows[row].role
        if role in _PROGRESS_KEEP:
            head, tail = _PROGRESS_KEEP[role]
            kept |= {*places[:head], *places[-tail:]}
            continue
        if not rows[row].gate:
            continue
        keep = rows[row].keep
        kept |= {*places[:keep], *places[-keep:]}
        windowed = {*places[: min(keep, 16)], *places[-min(keep, 16) :]}
        for place in windowed:
            kept.update(_window(pieces, place, rows[row], first, last))
        if role in _ERRORS:
            errors |= windowed
    kept |= _steps_around(steps, errors)
    return kept


def _window(pieces: Sequence[Piece], place: int, row: Signature, first: int, last: int) -> range:
    start, end = place, place
    budget = sparse.WINDOW_BYTES if row.before <= 30 else 4 * sparse.WINDOW_BYTES
    while start > first and place - start < row.before and pieces[place].start - pieces[start - 1].start <= budget:
        start -= 1
    budget = sparse.WINDOW_BYTES if row.after <= 30 else 4 * sparse.WINDOW_BYTES
    while end + 1 < last and end - place < row.after and pieces[end + 1].start - pieces[place].start <= budget:
        end += 1
    return range(start, end + 1)


def _steps_around(steps: Sequence[int], errors: set[int]) -> set[int]:
    kept: set[int] = set()
    for error in errors:
        before = [s for s in steps if s < error][-1:]
        after = [s for s in steps if s > error][:3]
        kept |= {*before, *after}
    return kept
