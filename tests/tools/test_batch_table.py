"""The results of a batch as a table: read back by the programs that people read tables with, they are the same values."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from attr_actors import batch_table
from attr_actors.batch_table import check_table, write_table
from attr_actors.cli import main
from attr_actors.core import table_rows
from attr_actors.core.result_rows import ResultRow
from attr_actors.core.table_rows import SHARED, TableRow, flatten
from attr_actors.errors import InvalidParameter
from attr_actors.models import Action, Attribution, Category, Line, Progress
from tests.api.conftest import OOM_LOG

NASTY = '=cmd|" /C calc"!A0,\r\n"quoted", naïve 日本 \t\x00 end'


def nasty_row(number: int = 0) -> ResultRow:
    found = Attribution(
        action=Action.EXCLUDE,
        category=Category.GPU_HARDWARE,
        rule="r",
        root_cause=NASTY,
        root_lines=(Line(line_number=2**40, byte_offset=0, text=NASTY, rank=3, node="n1"),),
        exclude_nodes=("n1", "n2"),
        confidence=0.25,
        progress=Progress(last_iteration=7),
    )
    return ResultRow(log_path=f"/l/{number}", user="", size=2**50, mtime_ns=1_790_000_000_123_456_789, analysed_at=0.5, attribution=found)


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "r.jsonl"
    rows = [nasty_row(), ResultRow(log_path="/l/empty", error_code="empty_file", error="it is empty")]
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows) + '{"torn')
    return path


def test_a_column_named_like_a_key_of_the_results_has_its_type() -> None:
    columns, keys = get_type_hints(TableRow), get_type_hints(ResultRow)
    assert {"log_path", "user", "size", "analysed_at", "wl_restart_count"} <= set(SHARED)
    assert {name for name in SHARED if columns[name] != keys[name]} == {"analysed_at"}


def test_parquet_has_every_value_with_its_type(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    assert write_table(str(out), str(results)) == 2
    first, second = parquet_rows(out)
    assert first == flatten(nasty_row())._asdict()
    assert (first["root_line_number"], first["root_line_text"], first["exclude_nodes"]) == (2**40, NASTY, "n1,n2")
    assert (first["analysed_at"], first["user"], first["reused"]) == (datetime(1970, 1, 1, 0, 0, 0, 500_000, UTC), "", False)
    assert (second["error_code"], second["action"], second["confidence"]) == ("empty_file", None, None)


def test_csv_is_rfc_4180_and_changes_no_text(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    assert write_table(str(out), str(results)) == 2
    first, second = csv_rows(out)
    assert first == {name: "" if value is None else str(value) for name, value in flatten(nasty_row())._asdict().items()}
    assert first["root_cause"] == NASTY
    assert (second["log_path"], second["error"], second["action"]) == ("/l/empty", "it is empty", "")
    assert out.read_bytes().startswith(",".join(TableRow._fields).encode() + b"\r\n")
    assert out.read_bytes().endswith(b"\r\n")


def test_other_programs_read_the_csv_as_well(results: Path, tmp_path: Path) -> None:
    import pyarrow.csv as pc

    write_table(str(tmp_path / "t.csv"), str(results))
    read = pc.read_csv(tmp_path / "t.csv", parse_options=pc.ParseOptions(newlines_in_values=True)).to_pylist()
    assert [row["log_path"] for row in read] == ["/l/0", "/l/empty"]
    assert read[0]["root_line_text"] == NASTY
    assert read[0]["analysed_at"] == datetime(1970, 1, 1, 0, 0, 0, 500_000, UTC)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_batch_writes_the_table_of_all_its_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    logs, out, table = tmp_path / "logs", tmp_path / "r.jsonl", tmp_path / name
    logs.mkdir()
    for number in range(3):
        (logs / f"slurm-{number}.out").write_text(OOM_LOG + f"{number}\n")
    argv = ["batch", str(logs), "--out", str(out), "--local", "--workers", "1", "--table", str(table)]
    assert main(argv) == 0
    (logs / "empty.log").touch()
    assert main(argv) == 3  # The second run adds one row; the table has those of the first as well.
    read: list[dict[str, Any]] = [*(parquet_rows(table) if table.suffix == ".parquet" else csv_rows(table))]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["log_path"] for row in read] == [row["log_path"] for row in written]
    assert [row["action"] or None for row in read] == ["STOP"] * 3 + [None]
    assert [int(row["root_line_number"]) for row in read[:3]] == [r["attribution"]["root_lines"][0]["line_number"] for r in written[:3]]
    assert not list(tmp_path.glob("*.tmp"))


def test_without_pyarrow_the_command_to_install_it_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "r.jsonl"
    assert main(["batch", "/none", "--out", str(out), "--local", "--table", str(tmp_path / "t.parquet")]) == 2
    assert "pip install 'attr-actors[tables]'" in capsys.readouterr().err
    assert not out.exists()
    check_table(str(tmp_path / "t.csv"), str(out))


@pytest.mark.parametrize("table", ["t.xlsx", "t", "none/t.csv", "r.csv", "."])
def test_a_table_that_cannot_be_written_is_refused_before_any_work(table: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter):
        check_table(str(tmp_path / table), str(tmp_path / "r.csv"))


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_memory_does_not_grow_with_the_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_table, "ROWS_PER_GROUP", 100)
    line = nasty_row().model_dump_json().encode() + b"\n"

    def peak(rows: int) -> int:
        (tmp_path / "r.jsonl").write_bytes(line * rows)
        tracemalloc.start()
        assert write_table(str(tmp_path / name), str(tmp_path / "r.jsonl")) == rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)
    assert peak(2000) < 1.5 * peak(200)


def test_every_column_is_documented() -> None:
    def named() -> Iterator[str]:
        for row in (table_rows.__doc__ or "").splitlines():
            if row.startswith("    "):
                yield from row.split("  ")[2].split(", ")

    fields, shown = list(TableRow._fields), list(named())
    ranges = [name.split(" .. ") for name in shown if " .. " in name]
    inside = {column for first, last in ranges for column in fields[fields.index(first) : fields.index(last) + 1]}
    assert set(fields) == inside | {name for name in shown if " .. " not in name}
