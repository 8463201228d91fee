"""Lines of a log by number or text: bounded, from any packing, with and without known offsets."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from attr_actors.core import excerpts
from attr_actors.core.paths import LogPath

LINES = [b"first", b"", b"third \xff\xfe", b"carriage\rreturn\r", b"x" * 5000, "sixth é".encode(), b"Last NEEDLE without end"]
DATA = b"\n".join(LINES)
PACKINGS = {"plain": lambda d: d, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


def put(tmp_path: Path, data: bytes, name: str = "log") -> LogPath:
    place = tmp_path / name
    place.write_bytes(data)
    return LogPath(str(place), str(tmp_path))


@pytest.mark.parametrize("packing", PACKINGS)
def test_lines_come_by_number_from_any_packing(packing: str, tmp_path: Path) -> None:
    log = put(tmp_path, PACKINGS[packing](DATA))
    found = excerpts.read_lines(log, [1, 2, 3, 6, 7, 8, 0, -4, 10**9])
    assert sorted(found) == [1, 2, 3, 6, 7]
    assert (found[1].text, found[6].text, found[7].text) == ("first", "sixth é", "Last NEEDLE without end")
    assert DATA[found[6].byte_offset :].startswith(b"sixth")


def test_a_known_offset_saves_reading_and_a_wrong_one_is_noticed(tmp_path: Path) -> None:
    log = put(tmp_path, DATA)
    offset = DATA.index(b"sixth")
    assert excerpts.read_lines(log, [6], {6: offset})[6].text == "sixth é"
    assert excerpts.read_lines(log, [6], {6: offset + 2})[6].text == "sixth é"  # Not at a line's start: counted instead.


@pytest.mark.parametrize("packing", PACKINGS)
def test_search_finds_literal_text_in_any_case_and_stops_at_its_limit(packing: str, tmp_path: Path) -> None:
    log = put(tmp_path, PACKINGS[packing](DATA + b"\nneedle again" * 100))
    found = excerpts.search(log, "nEEdle")
    assert len(found) == excerpts.FOUND_MAX
    assert (found[0].line_number, found[1].line_number) == (7, 8)
    assert excerpts.search(log, ".*") == excerpts.search(log, "no such text") == excerpts.search(log, "a\nb") == ()


def test_a_window_is_bounded_at_the_ends_of_the_file(tmp_path: Path) -> None:
    log = put(tmp_path, b"\n".join(b"line %d" % n for n in range(1, 101)))
    assert [line.line_number for line in excerpts.read_window(log, 2)] == list(range(1, 15))
    assert [line.line_number for line in excerpts.read_window(log, 99)] == list(range(87, 101))
    assert excerpts.read_window(log, 5000) == ()


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_the_tail_is_the_last_lines_with_their_numbers(packing: str, ending: bytes, tmp_path: Path) -> None:
    data = b"\n".join(b"line %d" % n for n in range(1, 400_001)) + ending
    tail = excerpts.read_tail(put(tmp_path, PACKINGS[packing](data)))
    assert [(line.line_number, line.text) for line in tail] == [(n, f"line {n}") for n in range(400_001 - excerpts.TAIL_LINES, 400_001)]
    assert data[tail[0].byte_offset :].startswith(tail[0].text.encode())


def test_the_tail_of_a_short_log_is_the_log(tmp_path: Path) -> None:
    assert [line.line_number for line in excerpts.read_tail(put(tmp_path, b"a\n\nb"))] == [1, 3]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    log = put(tmp_path, b"y" * 6_000_000 + b"\nafter")
    found = excerpts.read_lines(log, [1, 2])
    assert len(found[1].text) == excerpts.LINE_BYTES_MAX
    assert found[2].text == "after"


def test_lines_of_utf_16_are_those_of_the_scan(tmp_path: Path) -> None:
    log = put(tmp_path, "one\ntwo é\nthree".encode("utf-16"))
    assert [line.text for line in excerpts.read_lines(log, [2, 3]).values()] == ["two é", "three"]


def test_a_damaged_archive_ends_where_it_breaks(tmp_path: Path) -> None:
    packed = gzip.compress(os.urandom(200_000))
    log = put(tmp_path, packed[: len(packed) // 2])
    assert 10**6 not in excerpts.read_lines(log, [1, 10**6])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30), st.integers(1, 40), st.integers(1, 64))
def test_the_chunk_size_never_changes_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], number: int, chunk: int
) -> None:
    log = put(tmp_path_factory.mktemp("x"), b"\n".join(lines))
    whole = excerpts.read_lines(log, [number])
    usual, excerpts.CHUNK = excerpts.CHUNK, chunk
    try:
        assert excerpts.read_lines(log, [number]) == whole or any(len(line) >= 4 * chunk for line in lines)
    finally:
        excerpts.CHUNK = usual
