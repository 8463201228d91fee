"""The sparse log: what a scan keeps of a file. Hold in mind: everything after the scan sees these pieces and nothing else.

A piece is one line, or one part of a line that carriage returns cut (progress bars). Pieces are the windows around the
kept hits, the head and the tail, in the file's order and without duplicates; jumps of ``line_number`` show the gaps.
"""

from __future__ import annotations

from typing import NamedTuple

PIECE_CHARS_MAX = 4096
"""A longer piece is cut around its first match: no known message needs more to be told apart."""

HEAD_BYTES = 65_536
HEAD_PIECES = 400
TAIL_BYTES = 65_536
TAIL_PIECES = 600
WINDOW_BYTES = 8_192
PIECES_MAX = 12_000
TEXT_BYTES_MAX = 2_000_000
SEGMENTS_FIRST = 2
SEGMENTS_LAST = 6


class Piece(NamedTuple):
    """A line or a carriage-return part of one, with the rows that match it.

    ``byte_offset`` is of the line's first byte, ``start`` of the piece's; ``start`` orders pieces and is unique.
    """

    line_number: int
    byte_offset: int
    start: int
    text: str
    rows: tuple[int, ...] = ()


class Segment(NamedTuple):
    """A part of the file between two attempt starts; the caps of kept hits are counted per segment."""

    start: int
    line_number: int
    counts: dict[int, int]
    """Lines per row."""
    muted: frozenset[int] = frozenset()
    """Rows of which there may be more lines than were counted."""


class Scan(NamedTuple):
    """What one reading of a file found."""

    pieces: list[Piece]
    segments: list[Segment]
    bytes_read: int
    lines: int
    partial: str | None = None
