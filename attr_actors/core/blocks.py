r"""A stream of text cut into blocks of whole pieces, in one reused buffer.

Hold in mind: a *piece* is what lies between two of ``\n``, ``\r`` and NUL. A block never cuts a piece, unless the piece is overlong: then
it is cut at fixed distances from its own start and the block begins with an overlap. So the size of the reads never changes what a
piece is, and everything found in a block is found whatever came before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from attr_actors.core.source import Stream

CHUNK_BYTES = 1 << 20
CUT_BYTES = 32_768
"""A longer piece is cut into parts of this length: far above any message, far below what a regex may take long for."""
OVERLAP_BYTES = 2_048
"""A match up to this length is found across a cut."""
SEPARATORS = bytes.maketrans(b"\r\0", b"\n\n")


class Block:
    r"""The present stretch of text. Indices are into ``text`` and ``raw``; ``base`` is the offset of index 0.

    New text is ``[low, high)``; what stands before it is context (an overlap or one separator). ``text`` has every separator as ``\n``;
    ``raw`` is the text as read. ``piece_start`` and ``line_start`` are the offsets of the piece and line that ``low`` lies in.
    """

    def __init__(self, chunk_bytes: int) -> None:
        self.raw = bytearray(1 + OVERLAP_BYTES + CUT_BYTES + chunk_bytes)
        self.raw[0] = 0x0A
        self.view = memoryview(self.raw)
        self.text: bytes | bytearray = self.raw
        self.base = -1
        self.low = self.high = 1
        self.end = 1
        """What lies between ``high`` and here was read and is kept for the next block."""
        self.piece_start = self.line_start = 0
        self.line_number = 1
        """Of the line that ``low`` lies in."""

    @property
    def scannable(self) -> memoryview:
        """The context and the new text, for a matcher."""
        return memoryview(self.text)[: self.high]

    def normalise(self) -> None:
        """Make ``text`` of ``raw``: a copy only where there are carriage returns or NULs."""
        has_others = self.raw.find(b"\r", 0, self.high) >= 0 or self.raw.find(b"\0", 0, self.high) >= 0
        self.text = bytes(self.view[: self.high]).translate(SEPARATORS) if has_others else self.raw

    def piece_bounds(self, index: int) -> tuple[int, int]:
        """Return where the piece around an index begins and ends; a piece from before the block begins at ``piece_start - base``."""
        begin = self.text.rfind(b"\n", self.low - 1, index) + 1
        if begin == 0:
            begin = self.piece_start - self.base
        end = self.text.find(b"\n", index, self.high)
        return begin, self.high if end < 0 else end

    def line_start_of(self, index: int) -> int:
        """Return the offset of the first byte of the line around an index."""
        begin = self.raw.rfind(b"\n", self.low - 1, max(index, self.low - 1)) + 1
        return self.line_start if begin == 0 else begin + self.base


def read_blocks(stream: Stream, chunk_bytes: int = CHUNK_BYTES, block: Block | None = None, is_whole: bool = True) -> Iterator[Block]:
    """Yield the block again and again with new text; the caller must be done with it, and have set ``line_number`` on, before the next.

    A log that grows is read in several goes with the same ``block``: the open piece at its end waits until a go says ``is_whole``.
    """
    block = block or Block(chunk_bytes)
    ended = False
    while not ended:
        filled = block.end
        while filled < block.end + chunk_bytes and (count := stream.readinto(block.view[filled : block.end + chunk_bytes])):
            filled += count
        ended = filled < block.end + chunk_bytes
        block.end = filled
        block.high = filled if ended and is_whole else _find_cut(block, filled)
        if block.high > block.low:
            block.normalise()
            yield block
        block.end = _carry_over(block, filled)


def _find_cut(block: Block, end: int) -> int:
    """Return where the last whole piece ends, or the last cut of an overlong one; ``low`` if there is neither yet."""
    raw, low = block.raw, block.low
    last = raw.rfind(b"\n", low, end)
    for other in (b"\r", b"\0"):
        last = max(last, raw.rfind(other, max(last, low), end))
    last += 1
    begin = last if last else block.piece_start - block.base
    cut = begin + (end - begin) // CUT_BYTES * CUT_BYTES
    return max(cut, low)


def _carry_over(block: Block, end: int) -> int:
    """Move what the next block begins with to the front of the buffer; return where it ends."""
    high, text, raw = block.high, block.text, block.raw
    if high == block.low:
        return end
    last = text.rfind(b"\n", block.low, high) + 1
    if last:
        block.piece_start = last + block.base
    newline = raw.rfind(b"\n", block.low, high) + 1
    if newline:
        block.line_start = newline + block.base
    keep = high - 1 if last == high else max(0, high - OVERLAP_BYTES - 1)
    raw[: end - keep] = raw[keep:end]
    block.base += keep
    block.low = block.high = high - keep
    return end - keep
