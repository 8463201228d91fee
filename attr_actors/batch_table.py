"""``batch --table``: the results file as a table for other programs, Parquet by pyarrow or CSV. Columns: ``core/table_rows.py``.

Hold in mind: a table is made from the results file, some thousand rows at a time, so that its size does not matter; and
it appears under its name when it is whole.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import get_type_hints

from attr_actors.batch_files import read_rows
from attr_actors.core.table_rows import TableRow, flatten
from attr_actors.errors import InvalidParameter

ROWS_PER_GROUP = 5_000
"""Rows in memory at a time and in one row group of a Parquet file: some ten megabytes."""


def check_table(path: str, out: str) -> None:
    """Raise InvalidParameter if a table could not be written there at the end."""
    if Path(path).suffix not in _WRITERS:
        raise InvalidParameter(f"'{path}' ends in none of {', '.join(_WRITERS)}, so its format is unknown")
    if os.path.realpath(path) == os.path.realpath(out):
        raise InvalidParameter("--table and --out name the same file")
    if os.path.isdir(path) or not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise InvalidParameter(f"cannot write the table to '{path}'")
    if Path(path).suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401  # Only whether it is there.
        except ImportError:
            raise InvalidParameter("a Parquet file needs pyarrow: pip install 'attr-actors[tables]' (CSV does not)") from None


def write_table(path: str, results: str) -> int:
    """Write the rows of a results file as a table in the format that the name says; return their number. Raises InvalidParameter."""
    draft = f"{path}.tmp"
    try:
        number = _WRITERS[Path(path).suffix](draft, map(flatten, read_rows(results)))
        os.replace(draft, path)
    except OSError as exc:
        raise InvalidParameter(f"cannot write the table to '{path}': {exc.strerror}") from None
    return number


def _write_csv(path: str, rows: Iterable[TableRow]) -> int:
    """Write RFC 4180: lines end in CR LF, and text with a comma, a quote or a line end is quoted."""
    number = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(TableRow._fields)
        for row in rows:
            table.writerow(row)
            number += 1
    return number


def _write_parquet(path: str, rows: Iterable[TableRow]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), datetime: pa.timestamp("us", "UTC")}
    schema = pa.schema([(name, types[kind]) for name, kind in _kinds().items()])
    number = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as table:
        for group in _groups(rows):
            columns = zip(*group, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            table.write_batch(pa.record_batch(arrays, schema=schema))
            number += len(group)
    return number


def _kinds() -> dict[str, type]:
    """Return the type of each column, without its None."""
    hints = get_type_hints(TableRow)
    return {name: next(kind for kind in (*getattr(hint, "__args__", ()), hint) if kind is not type(None)) for name, hint in hints.items()}


def _groups(rows: Iterable[TableRow]) -> Iterator[list[TableRow]]:
    left = iter(rows)
    while group := list(islice(left, ROWS_PER_GROUP)):
        yield group


_WRITERS: dict[str, Callable[[str, Iterable[TableRow]], int]] = {".parquet": _write_parquet, ".csv": _write_csv}
