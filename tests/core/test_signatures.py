"""Signature rows: what gets in, what is refused, and that all engines read them alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attr_actors.core.signatures.database import Database, build_database, open_database
from attr_actors.core.signatures.dialect import confine
from attr_actors.core.signatures.gating import choose_literals, required_literals
from attr_actors.core.signatures.library import Signature, load_signatures, parse_signatures
from attr_actors.core.signatures.matching import ROW_MASK, is_digit_sensitive
from attr_actors.errors import BadSignature

ROW = """
[[signature]]
id = 'bad_valve'
category = 'gpu_hardware'
role = 'H'
tier = 1
regex = 'valve (?P<node>\\w+) is stuck'
example = 'pump: valve n12 is stuck'
owner = 'infra'
action = 'EXCLUDE'
why = 'A stuck valve stays stuck.'
source = 'V'
"""
ROWS = load_signatures()


def test_every_row_matches_its_own_example_in_every_automaton(database: Database, re2_database: Database) -> None:
    for index, row in enumerate(ROWS):
        line = row.example.encode()
        assert row.matches(row.example), row.id
        for one in (database, re2_database):
            assert index in {event & ROW_MASK for event in one.everything.find(line)[0]}, row.id


def test_the_gate_wakes_for_every_example(database: Database) -> None:
    assert database.gate is not None
    asleep = [row.id for row in ROWS if row.gate and not database.gate.find(row.example.encode())[0]]
    assert asleep == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_the_gate_wakes_for_whatever_a_row_matches(database: Database, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from([row for row in ROWS if row.gate]))
    line = data.draw(st.from_regex(re.compile(row.regex.encode())))
    part = next((p for p in re.split(rb"[\n\r\0]", line) if row.pattern.search(p)), None)
    if part is not None:
        assert database.gate is not None
        assert database.gate.find(part)[0], (row.id, part)


@pytest.mark.parametrize(
    ("regex", "literals"),
    [
        ("abc|defg", {b"abc", b"defg"}),
        ("x*needle+y", {b"needl"}),
        ("(?:red|green) lamp", {b"red lamp", b"green lamp"}),
        ("[Ff]ailed", {b"Failed", b"failed"}),
        ("(?:optional)?", None),
    ],
)
def test_required_literals(regex: str, literals: set[bytes] | None) -> None:
    assert required_literals(regex) == literals


@given(st.sets(st.binary(min_size=4, max_size=12), max_size=12))
def test_chosen_literals_cover_all_that_were_wanted(wanted: set[bytes]) -> None:
    chosen = choose_literals(wanted)
    assert all(any(part in literal for part in chosen) for literal in wanted)


def test_an_operators_rows_are_added(tmp_path: Path) -> None:
    (tmp_path / "plumbing.toml").write_text(ROW)
    rows = load_signatures(str(tmp_path))
    assert rows[-1].id == "bad_valve"
    assert rows[-1].family == "plumbing"
    assert len(rows) == len(ROWS) + 1


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("example = 'pump: valve n12 is stuck'", "example = 'all is well'", "does not match the row's own example"),
        ("source = 'V'", "source = 'K'\n# ", "may not carry STOP"),
        ("role = 'H'", "role = 'Q'", "role 'Q' is not one of"),
        ("why = 'A stuck valve stays stuck.'", "", "field 'why' is missing"),
        ("tier = 1", "tier = 'one'", "field 'tier' must be of type int"),
        ("(?P<node>\\w+)", "(?P<node>\\w+", "unterminated"),
        ("(?P<node>\\w+)", "(?!x)\\w+", "no lookaround"),
        ("valve (?P<node>\\w+) is stuck", "(?:stuck)?", "matches an empty line"),
        ("tier = 1", "tier = 1\ncolour = 'red'", "unknown field 'colour'"),
    ],
)
def test_a_bad_row_is_refused_with_file_row_and_fault(old: str, new: str, fault: str) -> None:
    text = ROW.replace(old, new)
    if "STOP" in fault:
        text = text.replace("EXCLUDE", "STOP")
    with pytest.raises(BadSignature) as caught:
        parse_signatures(text, "plumbing.toml", "plumbing")
    assert caught.value.message.startswith("plumbing.toml: row 'bad_valve':")
    assert fault in caught.value.message


def test_an_id_is_taken_only_once(tmp_path: Path) -> None:
    (tmp_path / "again.toml").write_text(ROW.replace("bad_valve", ROWS[0].id))
    with pytest.raises(BadSignature, match="is taken by"):
        load_signatures(str(tmp_path))


def test_a_damaged_or_foreign_cache_is_compiled_anew(tmp_path: Path) -> None:
    rows = parse_signatures(ROW, "plumbing.toml", "plumbing")
    line = b"valve n1 is stuck"
    for spoil in (lambda b: b, lambda b: b[:-3] + b"xyz", lambda b: b[:50], lambda b: b"", lambda b: b"\x80\x04." + b):
        found = build_database(rows, "hyperscan", str(tmp_path)).events.find(line)[0]
        assert [event & ROW_MASK for event in found] == [0]
        (file,) = tmp_path.glob("*.hsdb")
        file.write_bytes(spoil(file.read_bytes()))
    file.chmod(0o666)
    assert build_database(rows, "hyperscan", str(tmp_path)).events.find(line)[0]


def test_opening_without_a_usable_cache_directory_still_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rows = parse_signatures(ROW, "plumbing.toml", "plumbing")
    assert build_database(rows, "auto", str(tmp_path / "file" / "below")).rows == rows


@settings(max_examples=200)
@given(st.text(alphabet="ab1 \n\r\t", max_size=40), st.sampled_from([r"a\s+b", r"a[^b]*1", r"a\W+b", r"^b\s*$", r"\d\D+a", r"[ab]+$"]))
def test_a_confined_regex_finds_the_same_lines_in_a_block_as_line_by_line(text: str, regex: str) -> None:
    by_line = {n for n, line in enumerate(text.split("\n")) if re.search(regex, line.replace("\r", " "))}
    block = text.replace("\r", " ")
    found = {
        block.count("\n", 0, match.end() - 1) for match in re.finditer(confine(regex), block, re.MULTILINE) if match.end() > match.start()
    }
    assert found <= by_line
    assert bool(found) == bool(by_line)


@pytest.mark.parametrize(("regex", "sensitive"), [(r"Xid.*79", True), (r"\d+ of \d{2,3}", False), (r"[0-9]+\x0b", False), (r"[1-9]", True)])
def test_digit_sensitivity(regex: str, sensitive: bool) -> None:
    assert is_digit_sensitive(regex) == sensitive


def test_a_scan_backend_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attr_actors.core.signatures.matching.hyperscan", None)
    row: Signature = ROWS[0]
    assert build_database([row], "auto").backend == "re2"
    with pytest.raises(BadSignature, match="hyperscan"):
        open_database(backend="hyperscan")
