"""The bytes of one log as one snapshot: plain, gzip, zstd, and UTF-16 text read as UTF-8.

Hold in mind: the file may grow, shrink or be replaced while it is read. Nothing past the size at the start is read, and ``note``
says what went wrong instead of an exception: half a log is better evidence than none. Decompression is bounded by ``bytes_max``.
"""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from attr_actors.models import Snapshot

RAW_BYTES = 1 << 18
"""How much of a compressed file is read at a time."""
ZSTD_WINDOW_MAX = 1 << 26
"""64 MiB: all levels but --ultra 22 and --long=27; a larger window would be memory that a stranger's file chooses."""
ZSTD_HEADER_MAX = 18
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class Stream(Protocol):
    """Something that fills buffers in order until it returns 0."""

    @property
    def note(self) -> str | None:
        """What was wrong with the file so far."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its start and return how many bytes were written; 0 at the end."""


def _go_on() -> None:
    """Let a reading take as long as it takes."""


class Source:
    """One snapshot of an open log file. The descriptor stays the caller's.

    ``check`` is called before each read of the file, also of one that unpacks to nothing; what it raises ends the reading.
    """

    def __init__(self, fd: int, path: str, bytes_max: int, check: Callable[[], None] = _go_on) -> None:
        found = os.fstat(fd)
        self._check = check
        self._fd = fd
        self._path = path
        self._bytes_max = bytes_max
        self._opened = found
        self.snapshot = Snapshot(path=path, size=found.st_size, mtime_ns=found.st_mtime_ns)
        head = os.pread(fd, 4, 0)
        self.lacks_head = head == bytes(4)
        """NUL bytes stand where the log began: it was cut off at the front while its writer went on at its old place."""
        self.compression = "gzip" if head.startswith(GZIP_MAGIC) else "zstd" if head == ZSTD_MAGIC else ""
        self.encoding = UTF16.get(self._text_head(), "")
        self.is_seekable = not self.compression and not self.encoding

    def open(self, start: int = 0) -> Stream:
        """Return the text, at most ``bytes_max`` bytes of it; of a seekable source from ``start`` on."""
        if start:
            return _BoundedStream(_PlainStream(self._fd, self.snapshot.size, start, self._check), self._bytes_max, start)
        stream = self._unpacked()
        if self.encoding:
            stream = _Utf16Stream(stream, self.encoding)
        return _BoundedStream(stream, self._bytes_max)

    def read_at(self, start: int, end: int) -> bytes:
        """Return bytes of a seekable source; fewer when the file shrank."""
        parts, position = [], start
        while position < end:
            part = os.pread(self._fd, end - position, position)
            if not part:
                break
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def find_change(self) -> str | None:
        """Tell how the file differs from the snapshot by now, or None."""
        now = os.fstat(self._fd)
        if now.st_size > self._opened.st_size:
            return "the file grew while it was read"
        if now.st_size < self._opened.st_size:
            return "the file shrank while it was read"
        if now.st_mtime_ns != self._opened.st_mtime_ns:
            return "the file was rewritten while it was read"
        try:
            named = os.stat(self._path, follow_symlinks=False) if self._path else now
        except OSError:
            return "the file was removed while it was read"
        if (named.st_ino, named.st_dev) != (now.st_ino, now.st_dev):
            return "the file was replaced while it was read"
        return None

    def _unpacked(self) -> Stream:
        plain = _PlainStream(self._fd, self.snapshot.size, 0, self._check)
        if self.compression == "gzip":
            return _GzipStream(plain)
        return _ZstdStream(plain) if self.compression == "zstd" else plain

    def _text_head(self) -> bytes:
        head = bytearray(2)
        return bytes(head[: self._unpacked().readinto(memoryview(head))])


class _PlainStream:
    def __init__(self, fd: int, size: int, start: int, check: Callable[[], None]) -> None:
        self._fd = fd
        self.size = size
        self._check = check
        self._position = start
        self.note: str | None = None

    def readinto(self, buffer: memoryview) -> int:
        self._check()
        wanted = min(len(buffer), self.size - self._position)
        if wanted <= 0:
            return 0
        try:
            count = os.preadv(self._fd, [buffer[:wanted]], self._position)
        except OSError as exc:
            self.note = f"reading failed at byte {self._position}: {exc.strerror}"
            return 0
        if count == 0:
            self.note = "the file shrank while it was read"
        self._position += count
        return count

    def read_at(self, place: int, size: int) -> bytes:
        """Return some bytes at a place; fewer at the end of the snapshot."""
        self._check()
        return os.pread(self._fd, max(0, min(size, self.size - place)), place)

    def read(self, size: int = RAW_BYTES) -> bytes:
        """Return the next bytes, as decompressors want them."""
        buffer = bytearray(min(size if size > 0 else RAW_BYTES, RAW_BYTES))
        return bytes(buffer[: self.readinto(memoryview(buffer))])


class _GzipStream:
    """Members one after the other; a damaged or cut file gives what can be read."""

    def __init__(self, raw: _PlainStream) -> None:
        self._raw = raw
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""
        self.note: str | None = None

    def readinto(self, buffer: memoryview) -> int:
        while self.note is None:
            if not self._input and not (new := self._raw.read()):
                self.note = self._raw.note or (None if self._member.eof else "the gzip file ends in the middle")
                return 0
            elif not self._input:
                self._input = new
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            try:
                out = self._member.decompress(self._input, len(buffer))
            except zlib.error:
                self.note = "the gzip file is damaged"
                return 0
            self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if out:
                buffer[: len(out)] = out
                return len(out)
        return 0


class _ZstdStream:
    """Frames one after the other; a damaged or cut file gives what can be read."""

    def __init__(self, raw: _PlainStream) -> None:
        self._raw = raw
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
        self._reader = decompressor.stream_reader(raw, read_across_frames=True, read_size=RAW_BYTES)  # type: ignore[arg-type]
        self.note: str | None = None

    def readinto(self, buffer: memoryview) -> int:
        try:
            count = self._reader.readinto(buffer)
        except zstandard.ZstdError as exc:
            too_large = "memory" in str(exc)
            self.note = "the zstd file needs a window of more than 64 MiB" if too_large else "the zstd file is damaged"
            return 0
        if count == 0:
            self.note = self._raw.note or (None if _ends_with_its_frame(self._raw) else "the zstd file ends in the middle")
        return int(count)


def _ends_with_its_frame(raw: _PlainStream) -> bool:
    """Tell whether a file ends where its last frame does, by the sizes of its blocks (RFC 8878); the library does not say."""
    place = 0
    while place < raw.size:
        head = raw.read_at(place, ZSTD_HEADER_MAX)
        if head[1:4] == b"\x2a\x4d\x18":  # A frame to be skipped, with its size.
            place += 8 + int.from_bytes(head[4:8], "little")
            continue
        try:
            place += zstandard.frame_header_size(head)
            has_checksum = zstandard.get_frame_parameters(head).has_checksum
        except zstandard.ZstdError:
            return False
        is_last = False
        while not is_last:
            block = raw.read_at(place, 3)
            if len(block) < 3:
                return False
            header = int.from_bytes(block, "little")
            is_last = bool(header & 1)
            place += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
        place += 4 * has_checksum
    return place == raw.size


class _Utf16Stream:
    """UTF-16 as UTF-8, without the byte order mark."""

    def __init__(self, raw: Stream, encoding: str) -> None:
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._low = encoding == "utf-16-be"
        """Which byte of a pair is the low one."""
        self._input = bytearray(RAW_BYTES)
        self._ready: bytes | bytearray = b""
        self._started = self._ended = False
        self.note: str | None = None

    def readinto(self, buffer: memoryview) -> int:
        while not self._ready and not self._ended:
            count = self._raw.readinto(memoryview(self._input))
            self._ended = count == 0
            self.note = self._raw.note
            self._ready = self._ascii(self._input[:count]) or self._decode(self._input[:count])
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _ascii(self, data: bytearray) -> bytearray | None:
        """Return the text of what holds ASCII only: every other byte, at ten times the speed of a decoder."""
        if len(data) % 2 or self._decoder.getstate()[0]:
            return None
        low, high = data[self._low :: 2], data[1 - self._low :: 2]
        return low if low.isascii() and high.count(0) == len(high) else None

    def _decode(self, data: bytearray) -> bytes:
        text = self._decoder.decode(data, self._ended)
        if not self._started and text:
            text, self._started = text.removeprefix("\ufeff"), True
        return text.encode("utf-8", "replace")


class _BoundedStream:
    def __init__(self, stream: Stream, bytes_max: int, start: int = 0) -> None:
        self._stream = stream
        self._left = bytes_max - start
        self._bytes_max = bytes_max
        self._over = False

    @property
    def note(self) -> str | None:
        return f"only the first {self._bytes_max} bytes were read" if self._over else self._stream.note

    def readinto(self, buffer: memoryview) -> int:
        if self._left <= 0:
            self._over = self._stream.readinto(memoryview(bytearray(1))) > 0
            return 0
        count = self._stream.readinto(buffer[: self._left])
        self._left -= count
        return count
