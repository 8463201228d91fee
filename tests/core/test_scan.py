"""The fast scanner against plain definitions: exact counts, true offsets, and no dependence on the size of the reads."""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attr_actors.core import blocks, floods, hits, keeping
from attr_actors.core.paths import LogPath
from attr_actors.core.scan import SCAN_BYTES_MAX, scan_log, scan_source
from attr_actors.core.signatures.database import Database
from attr_actors.core.signatures.matching import Matcher
from attr_actors.core.source import Source
from attr_actors.core.sparse import Scan
from attr_actors.errors import EmptyFile

LINES = [
    b"iteration 100/ 5000 | lm loss: 2.1E+00 |",
    b"RuntimeError: CUDA error: an illegal memory access was encountered",
    b"[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    b"Traceback (most recent call last):",
    b"NVRM: Xid (PCI:0000:9b:00): 79, pid=1, GPU has fallen off the bus.",
    b"No space left on device",
    b"saving checkpoint at iteration 100 to /ckpt",
    b"+ srun --nodes=2 python train.py",
    b"Killed",
    b"",
    b" plain words",
    b"\xff\xfe\x00binary",
    b"slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***",
]
TEXTS = st.lists(
    st.tuples(st.sampled_from(LINES) | st.binary(max_size=40), st.sampled_from([b"\n", b"\r", b"\r\n", b"\0", b"\n\n"])), max_size=60
).map(lambda parts: b"".join(line + end for line, end in parts))
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@contextmanager
def opened(data: bytes) -> Iterator[Source]:
    fd = os.memfd_create("log")
    try:
        os.write(fd, data)
        yield Source(fd, "", SCAN_BYTES_MAX)
    finally:
        os.close(fd)


def scan(data: bytes, database: Database, chunk: int = blocks.CHUNK_BYTES) -> Scan:
    with opened(data) as source:
        return scan_source(source, database, chunk)


def slow_counts(data: bytes, database: Database) -> dict[int, int]:
    """Count the lines that match each row, one piece at a time with ``re``."""
    counts: dict[int, int] = {}
    for line in data.split(b"\n"):
        pieces = re.split(rb"[\r\0]", line)
        for index, row in enumerate(database.rows):
            if row.gate and any(row.pattern.search(p) and not (row.exception and row.exception.search(p)) for p in pieces):
                counts[index] = counts.get(index, 0) + 1
    return counts


def counts_of(found: Scan) -> Counter[int]:
    """Return the lines per row in the whole file."""
    return sum((Counter(segment.counts) for segment in found.segments), Counter())


def assert_true(found: Scan, data: bytes) -> None:
    """Check that every piece is in the file where it says, and that its line is the line it says."""
    assert [piece.start for piece in found.pieces] == sorted({piece.start for piece in found.pieces})
    for piece in found.pieces:
        assert data[piece.start :].decode("utf-8", "replace")[: len(piece.text) - 1] == piece.text[:-1]
        assert data.count(b"\n", 0, piece.start) + 1 == piece.line_number
        assert data.rfind(b"\n", 0, piece.start) + 1 == piece.byte_offset


@QUICK
@given(TEXTS, st.integers(1, 200))
def test_counts_and_places_are_those_of_a_slow_reader(database: Database, re2_database: Database, data: bytes, chunk: int) -> None:
    data = b"x" + data
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b")):
        return
    found = scan(data, database)
    assert counts_of(found) == slow_counts(data, database)
    assert (found.bytes_read, found.lines) == (len(data), data.count(b"\n") + (not data.endswith(b"\n")))
    assert_true(found, data)
    assert scan(data, database, chunk) == found
    assert scan(data, re2_database, chunk) == found


@QUICK
@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise(database: Database, data: bytes) -> None:
    scan(data + b"\n", database, 64)
    with opened(b"\x1f\x8b\x08" + data) as broken:
        assert scan_source(broken, database).partial
    with opened(b"\xff\xfe" + data) as wide:
        scan_source(wide, database, 64)


def flood(kind: str, first: int = 0) -> bytes:
    steps = b" iteration %d/ 99999 | lm loss: 2.0E+00 | elapsed time per iteration (ms): 5.0 |\n"
    if kind == "equal":
        return LINES[1] + b"\n" + (LINES[2] + b"\n") * 4_000 + LINES[1] + b"\n"
    if kind == "numbered":
        return b"".join(b"[rank%d]: NVRM: Xid (PCI:0): %d, RuntimeError: NCCL error: %d\n" % (n % 8, 60 + n % 20, n) for n in range(4_000))
    if kind == "different":
        return b"".join(
            b"%s NCCL error: unhandled system error\n"
            % os.urandom(0).join([b"%x" % (n * 7919 * 104729)]).translate(bytes.maketrans(b"0123456789", b"ghijklmnop"))
            for n in range(first, first + 5_000)
        )
    if kind == "with steps":
        return b"".join(steps % n + (LINES[1] + b"\n") * (n % 3) for n in range(4_000))
    return b"".join(b"%d%%|##|\r" % (n % 100) + LINES[1] + (b"\n" if n % 3 else b"\r") for n in range(4_000)) + b"\n"


@pytest.mark.parametrize("kind", ["equal", "numbered", "different", "with steps", "bars"])
def test_a_flood_gives_the_same_answer_as_hit_by_hit(database: Database, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"start\n" + flood(kind) + LINES[4] + b"\n"
    monkeypatch.setattr(hits, "WAKES_MAX", 100)
    fast = scan(data, database)
    assert scan(data, database, 30_011) == fast
    monkeypatch.setattr(hits, "WAKES_MAX", 1 << 60)
    assert scan(data, database) == fast
    assert_true(fast, data)


@pytest.mark.parametrize(("limit", "value"), [("MEMO_MAX", 5), ("KINDS_MAX", 1), ("KINDS_MAX", 3)])
def test_a_full_memory_of_lines_is_begun_anew_and_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    data = b"".join(b"%s %d\n" % (line, n) for n in range(2_000) for line in LINES[1:7])
    monkeypatch.setattr(hits, "WAKES_MAX", 1 << 60)
    whole = scan(data, database)
    monkeypatch.setattr(hits, "WAKES_MAX", 100)
    monkeypatch.setattr(floods, limit, value)
    assert scan(data, database, 50_021) == whole


@pytest.mark.parametrize("chunk", [blocks.CHUNK_BYTES, 300_007])
def test_a_row_counted_long_enough_is_passed_over_but_what_may_be_kept_of_it_is_found(
    database: Database, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    seven = [flood("different", 5_000 * n) for n in range(10)]
    data = b"\n".join([b"start", *seven[:4], LINES[2], *seven[4:8], LINES[0], *seven[8:], LINES[4], b""])
    whole = scan(data, database)
    monkeypatch.setattr(keeping, "COUNT_MAX", 500)
    found = scan(data, database, chunk)
    assert found.pieces == whole.pieces
    (segment,) = found.segments
    assert segment.muted
    for row, count in whole.segments[0].counts.items():
        assert segment.counts[row] == (500 if row in segment.muted else count)


@pytest.mark.parametrize("chunk", [blocks.CHUNK_BYTES, 100_003, 40_009])
def test_an_endless_line_among_others_is_read_in_parts_like_any(database: Database, chunk: int) -> None:
    endless = b"".join(b"%s number %d and more; " % (LINES[1 + n % 2], n) for n in range(600))
    data = (LINES[1] + b"\n") * 100 + endless + b"\n" + LINES[5] + b"\n" + endless + b"\r" + LINES[4] + b"\n"
    found = scan(data, database, chunk)
    if chunk == blocks.CHUNK_BYTES:
        assert counts_of(found) == slow_counts(data, database)
        assert_true(found, data)
    assert found == scan(data, database)


def test_ten_thousand_equal_lines_are_counted_honestly_and_kept_few(database: Database) -> None:
    line = b"step 7: RuntimeError: CUDA error: an illegal memory access was encountered in a kernel that was launched earlier\n"
    found = scan(line * 10_000, database)
    assert set(counts_of(found).values()) == {10_000}
    assert len(found.pieces) < 2_000


def test_the_first_line_of_a_second_flood_is_kept(database: Database) -> None:
    steps = b"".join(b" iteration %d/ 9000 | lm loss: 2.0E+00 | elapsed time per iteration (ms): 5.0 |\n" % n for n in range(3_000))
    noise = b"Connect to 10.0.0.1 failed: Connection reset by peer\n" * 4_000
    data = noise + steps + b"node7: Connection reset by peer\n" + noise
    found = scan(data, database)
    place = len(noise) + len(steps)
    assert any(piece.start == place for piece in found.pieces)


def test_the_steps_around_a_failure_are_kept(database: Database) -> None:
    step = b" iteration %5d/ 90000 | consumed samples: 1 | lm loss: 2.0E+00 | elapsed time per iteration (ms): 5.0 |\n"
    before, after = b"".join(step % n for n in range(5_000)), b"".join(step % n for n in range(5_000, 9_000))
    quiet = b"nothing to see here, nothing at all\n" * 3_000
    data = before + quiet + LINES[1] + b"\n" + quiet + after
    kept = {piece.text for piece in scan(data, database).pieces}
    for number in (0, 1, 4_999, 5_000, 5_001, 5_002, 8_999):
        assert (step % number).decode().rstrip("\n") in kept


def test_an_overlong_line_is_cut_at_fixed_places(database: Database) -> None:
    long = b"z" * (3 * blocks.CUT_BYTES + 77)
    data = b"head\n" + long + b" CUDA out of memory " + long + b"\ntail: No space left on device\n"
    found = scan(data, database)
    assert counts_of(found) == counts_of(scan(data, database, 1_000))
    assert scan(data, database, 50_000) == found
    assert any("CUDA out of memory" in piece.text for piece in found.pieces)
    assert_true(found, data)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_compressed_log_reads_like_a_plain_one(database: Database, pack: object) -> None:
    data = (LINES[0] + b"\n") * 9_000 + LINES[4] + b"\n" + (LINES[10] + b"\n") * 9_000
    assert callable(pack)
    assert scan(pack(data), database) == scan(data, database)


def test_utf_16_reads_like_utf_8(database: Database) -> None:
    text = "".join(f"Zeile {n}: größer\n" for n in range(3_000)) + "RuntimeError: CUDA out of memory\n"
    plain = scan(text.encode(), database)
    for encoding in ("utf-16-le", "utf-16-be"):
        ascii_only = text.replace("ö", "o").replace("ß", "s")
        assert scan(("\ufeff" + ascii_only * 9).encode(encoding), database)._replace(partial=None) == scan(
            (ascii_only * 9).encode(), database
        )
        assert scan(("\ufeff" + text).encode(encoding), database)._replace(partial=None) == plain


def test_a_cut_gzip_file_gives_what_is_there_and_says_so(database: Database) -> None:
    data = b"".join(b"%d %s\n" % (n, LINES[n % 5]) for n in range(20_000))
    found = scan(gzip.compress(data)[:-40_000], database)
    assert found.partial == "the gzip file ends in the middle"
    assert 0 < found.bytes_read < len(data)


def test_a_cut_zstd_file_gives_what_is_there_and_says_so(database: Database) -> None:
    data = b"".join(b"%d %s\n" % (n, LINES[n % 5]) for n in range(80_000))
    packed = zstandard.ZstdCompressor().compress(data)
    found = scan(packed[: len(packed) // 2], database)
    assert found.partial == "the zstd file ends in the middle"
    assert 0 < found.bytes_read < len(data)


def test_a_log_whose_head_was_cut_off_under_its_writer_is_partial(database: Database) -> None:
    found = scan(bytes(5_000) + LINES[5] + b"\n", database)
    assert found.partial == "the log begins with NUL bytes, so its head is missing"
    assert len(counts_of(found)) == 1


def test_a_bomb_is_read_up_to_the_limit(database: Database) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(8 << 20))
    fd = os.memfd_create("bomb")
    try:
        os.write(fd, bomb)
        found = scan_source(Source(fd, "", 1 << 20), database)
    finally:
        os.close(fd)
    assert (found.bytes_read, found.partial) == (1 << 20, "only the first 1048576 bytes were read")


@pytest.mark.parametrize("change", ["grow", "shrink", "replace", "rewrite"])
def test_a_file_that_changes_is_read_as_it_was_and_marked_partial(database: Database, tmp_path: Path, change: str) -> None:
    path = tmp_path / "job.log"
    path.write_bytes((LINES[10] + b"\n") * 5_000)
    fd = os.open(path, os.O_RDONLY)
    source = Source(fd, str(path), SCAN_BYTES_MAX)
    try:
        if change == "grow":
            with path.open("ab") as file:
                file.write(LINES[1] + b"\n")
        elif change == "shrink":
            os.truncate(path, 1_000)
        elif change == "rewrite":
            os.utime(path, (1, 1))
        else:
            path.rename(tmp_path / "old.log")
            path.write_bytes(b"new\n")
        found = scan_source(source, database)
    finally:
        os.close(fd)
    assert found.partial is not None
    assert counts_of(found) == {}


def test_an_empty_log_is_refused(database: Database, tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    with pytest.raises(EmptyFile):
        scan_log(LogPath(str(tmp_path / "empty.log"), str(tmp_path)), database)


def test_a_step_that_its_row_excepts_does_not_slow_the_scan(database: Database) -> None:
    step = b" iteration %8d/ 9000000 | elapsed time per iteration (ms): 5.0 | global batch size: 1024 | lm loss: 2.0E+00 |\n"
    data = b"".join(step % n for n in range(40_000)) + LINES[4] + b"\n"
    asked = Counting(database.progress)
    found = scan(data, replace(database, progress=asked))
    assert counts_of(found)
    assert asked.bytes < len(data) / 4


class Counting:
    """A matcher that counts what it is asked to read."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self.bytes = 0

    def find(self, text: bytes, events_max: int = 1 << 62) -> tuple[list[int], bool]:
        self.bytes += len(text)
        return self._matcher.find(text, events_max)

    def clone(self) -> Counting:
        return self
