"""Windows and searches in logs of any size."""

from __future__ import annotations

import gzip
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core import reading
from attr_actors.core.paths import LogPath, admit
from attr_actors.core.reading import LINE_CHARS_MAX, LINES_MAX, Deadline, Excerpt
from attr_actors.errors import InvalidParameter, NotFound, Unavailable


def read_window(log: LogPath, first_line: int, count: int, timeout_s: float = 60) -> Excerpt:
    return reading.read_window(log, first_line, count, Deadline(timeout_s))


def search_log(log: LogPath, pattern: str, first_line: int, matches_max: int, ignore_case: bool = False, timeout_s: float = 60) -> Excerpt:
    return reading.search_log(log, pattern, first_line, matches_max, ignore_case, Deadline(timeout_s))


@pytest.fixture
def log(tmp_path: Path) -> LogPath:
    (tmp_path / "a.log").write_text("".join(f"line {n} of the log\n" for n in range(1, 1001)))
    return admit(str(tmp_path / "a.log"), str(tmp_path))


def numbers(excerpt: reading.Excerpt) -> list[int]:
    return [line.line_number for line in excerpt.lines]


def test_a_window_shows_the_lines_asked_for_and_says_where_to_go_on(log: LogPath) -> None:
    window = read_window(log, 500, 3)
    assert [line.text for line in window.lines] == ["line 500 of the log", "line 501 of the log", "line 502 of the log"]
    assert window.next_line == 503
    assert numbers(read_window(log, 999, 10)) == [999, 1000]
    assert read_window(log, 999, 10).next_line is None
    assert numbers(read_window(log, 5000, 1)) == []


def test_a_search_goes_on_where_it_stopped(log: LogPath) -> None:
    first = search_log(log, r"^line \d*00 ", 1, 4)
    assert (numbers(first), first.next_line) == ([100, 200, 300, 400], 500)
    rest = search_log(log, r"^line \d*00 ", 500, 10)
    assert (numbers(rest), rest.next_line) == ([500, 600, 700, 800, 900, 1000], None)
    assert numbers(search_log(log, "LINE 7 OF", 1, 5, ignore_case=True)) == [7]
    assert numbers(search_log(log, "LINE 7 OF", 1, 5)) == []


@pytest.mark.parametrize("pattern", ["(", "", "x" * 2000, "(?=a)", "\\"])
def test_a_bad_pattern_is_the_callers_mistake(log: LogPath, pattern: str) -> None:
    with pytest.raises(InvalidParameter, match="pattern"):
        search_log(log, pattern, 1, 1)


def test_asking_for_too_much_is_refused(log: LogPath) -> None:
    for first, count in ((0, 1), (1, 0), (1, LINES_MAX + 1)):
        with pytest.raises(InvalidParameter):
            read_window(log, first, count)
        with pytest.raises(InvalidParameter):
            search_log(log, "x", first, count)


def test_long_lines_and_control_characters_are_tamed(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"\x1b[31m" + b"x" * 3_000_000 + b"\n\xff\x00end\r\n")
    found = read_window(admit(str(tmp_path / "a.log"), str(tmp_path)), 1, 10)
    assert [len(line.text) for line in found.lines if line.line_number == 1] == [LINE_CHARS_MAX]
    assert numbers(search_log(admit(str(tmp_path / "a.log"), str(tmp_path)), "x+|end", 1, 2)) == [1, 2]
    assert all(line.text.isprintable() for line in found.lines)
    assert found.lines[-1].line_number == 2
    assert found.lines[-1].text.endswith("end")


def test_compressed_logs_have_the_line_numbers_of_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(b"one\ntwo\nthree\n"))
    assert [(x.line_number, x.text) for x in search_log(admit(str(tmp_path / "a.log.gz"), str(tmp_path)), "t", 1, 9).lines] == [
        (2, "two"),
        (3, "three"),
    ]


def test_a_missing_log_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_window(admit(str(tmp_path / "none"), str(tmp_path)), 1, 1)


ENDLESS = {
    "long text": gzip.compress(bytes(16 << 20), 1) * 200,
    "empty gzip members": gzip.compress(b"") * 1_000_000,
    "skipped zstd frames": b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00" + b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 2_500_000,
    "short lines": b"x\n" * 20_000_000,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_reading_ends_soon_after_its_time(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(ENDLESS[kind])
    log = admit(str(tmp_path / "a.log"), str(tmp_path))
    for read in (lambda: search_log(log, "^y", 1, 1, timeout_s=0.1), lambda: read_window(log, 1_000_000_000, 1, timeout_s=0.01)):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="took longer than"):
            read()
        assert time.monotonic() - started < 2


def test_a_reading_ends_when_its_caller_gave_up(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(ENDLESS["long text"])
    deadline = Deadline(3600)
    threading.Timer(0.2, deadline.give_up).start()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        reading.search_log(admit(str(tmp_path / "a.log"), str(tmp_path)), "y", 1, 1, False, deadline)
    assert time.monotonic() - started < 2


def test_the_slowest_pattern_cannot_hold_a_reading_for_long(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"xyyxyxxyxyxy" * 100_000)
    log = admit(str(tmp_path / "a.log"), str(tmp_path))
    with pytest.raises(InvalidParameter, match="too large"):
        search_log(log, "(?:" + "x?y?" * 20 + "){400}z", 1, 1)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        search_log(log, "(?:" + "x?y?" * 20 + "){100}z", 1, 1, timeout_s=0.1)
    assert time.monotonic() - started < 30  # One block; as a whole it takes minutes.


class Pieces:
    """A stream that hands out bytes in small pieces."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def readinto(self, buffer: memoryview) -> int:
        part, self._data = self._data[: self._size], self._data[self._size :]
        buffer[: len(part)] = part
        return len(part)


@given(st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"")), max_size=20), st.integers(1, 7))
def test_blocks_hold_every_line_once_with_its_number(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    seen = {}
    for number, block in reading._blocks(Pieces(data, size)):
        for line_number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), number):
            assert line_number not in seen
            seen[line_number] = line
    wanted = dict(enumerate(data.removesuffix(b"\n").split(b"\n"), 1)) if data else {}
    assert seen == wanted
