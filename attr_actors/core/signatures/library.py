"""Signature rows: read from TOML, checked one by one, held as frozen values.

Hold in mind: a regex is matched on the bytes of one line (``^`` and ``$`` are its ends, classes are ASCII), and a row that does not
match its own example never gets in. Faults raise BadSignature with file, row and fault.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from attr_actors.core.signatures.dialect import confine
from attr_actors.errors import BadSignature
from attr_actors.models import Action, Category

BUILT_IN = Path(__file__).parent
FILE_BYTES_MAX = 4 << 20
"""Larger than any hand-written family; keeps a wrong file in an operator's directory from being read whole."""


class Role(StrEnum):
    """What a matching line means to the ordering rules. The first eight judge failures, the others give structure."""

    HARDWARE = "H"
    SCHEDULER = "S"
    PRIMARY = "P"
    GENERIC = "G"
    CASCADE = "C"
    TEARDOWN = "T"
    CONFIRMATION = "X"
    NOISE = "N"
    ATTEMPT = "A"  # A new run of the workload begins here.
    ITERATION = "I"  # A completed step; on almost every line, therefore never in the gate.
    CHECKPOINT = "K"  # A checkpoint was saved.
    DONE = "D"  # The run says that it is finished.
    TRACEBACK = "B"  # The head of a Python traceback or of a native stack dump.
    FACT = "F"  # Any other line that the evidence wants (flight recorder, launcher summary, run configuration).


STRUCTURAL = frozenset({Role.ATTEMPT, Role.ITERATION, Role.CHECKPOINT, Role.DONE, Role.TRACEBACK, Role.FACT})
FAILURE = frozenset({Role.HARDWARE, Role.SCHEDULER, Role.PRIMARY, Role.GENERIC, Role.CASCADE, Role.CONFIRMATION})
PROGRESS = frozenset({Role.ITERATION, Role.CHECKPOINT, Role.DONE})
UNGATED = frozenset({Role.NOISE, Role.ITERATION})
"""Roles so frequent in healthy logs that they may not wake the full database."""
_DEFAULTS: dict[Role, dict[str, int]] = {
    **{role: {"before": 0, "after": 0} for role in (Role.NOISE, Role.ATTEMPT, Role.ITERATION, Role.CHECKPOINT, Role.DONE)},
    Role.TRACEBACK: {"before": 2, "after": 400},
}
"""Where a role's window differs from 30 lines on each side."""
GENERIC_TIER = 5
SIGNATURE_ACTIONS = frozenset({*(a.value for a in Action if a is not Action.UNKNOWN), "CONFIRM"})
"""CONFIRM: restart once; STOP when the same fingerprint comes again without progress."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One row: what a line looks like, what it means, and why.

    ``unless`` is a Python regex: a line that matches it is no hit. ``gate``: the row may wake the full database; otherwise it is seen
    only in lines kept for another reason. ``keep`` bounds the first and the last hits kept per segment, ``before`` and ``after`` are the
    lines kept around each.
    """

    id: str
    family: str
    role: Role
    regex: str
    example: str
    why: str
    category: Category = Category.UNKNOWN
    tier: int = 9
    owner: str = "unknown"
    action: str = Action.RESTART.value
    source: str = ""
    unless: str = ""
    counter_examples: tuple[str, ...] = ()
    gate: bool = True
    keep: int = 16
    before: int = 30
    after: int = 30
    file: str = ""
    pattern: re.Pattern[bytes] = field(default=re.compile(b""), compare=False, repr=False)
    exception: re.Pattern[bytes] | None = field(default=None, compare=False, repr=False)

    @property
    def is_structural(self) -> bool:
        """Tell whether the row describes the run's structure and not a failure."""
        return self.role in STRUCTURAL

    @property
    def is_generic(self) -> bool:
        """Tell whether the row knows an exception's type only, or less."""
        return self.tier >= GENERIC_TIER

    def matches(self, text: str) -> bool:
        """Tell whether a line of text matches, exactly as a scan would say."""
        line = text.encode("utf-8", "surrogateescape")
        return self.pattern.search(line) is not None and not (self.exception and self.exception.search(line))


def load_signatures(operator_dir: str = "") -> tuple[Signature, ...]:
    """Read the built-in rows and those of an operator's directory (``*.toml``), in file and row order. Raises BadSignature."""
    rows = list(_read_directory(BUILT_IN))
    if operator_dir:
        if not Path(operator_dir).is_dir():
            raise BadSignature(f"signatures directory '{operator_dir}' is not a readable directory")
        rows += _read_directory(Path(operator_dir))
    _check_unique(rows)
    return tuple(rows)


def parse_signatures(text: str, file: str, family: str) -> tuple[Signature, ...]:
    """Parse one TOML file of ``[[signature]]`` rows. Raises BadSignature."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise BadSignature(f"{file}: not valid TOML: {exc}") from None
    tables = document.get("signature")
    if not isinstance(tables, list) or set(document) != {"signature"}:
        raise BadSignature(f"{file}: must hold [[signature]] tables and nothing else")
    return tuple(_parse_row(table, number, file, family) for number, table in enumerate(tables, 1))


def _read_directory(directory: Path) -> Iterator[Signature]:
    for path in sorted(directory.glob("*.toml")):
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise BadSignature(f"{path}: larger than {FILE_BYTES_MAX} bytes")
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise BadSignature(f"{path}: cannot be read: {exc}") from None
        yield from parse_signatures(text, str(path) if directory != BUILT_IN else path.name, path.stem.replace("_", " "))


def _check_unique(rows: Iterable[Signature]) -> None:
    seen: dict[str, Signature] = {}
    for row in rows:
        other = seen.setdefault(row.id, row)
        if other is not row:
            raise BadSignature(f"{row.file}: row '{row.id}': the id is taken by {other.file}")


_FIELDS: dict[str, type] = {
    **dict.fromkeys(("id", "role", "regex", "unless", "example", "why"), str),
    **dict.fromkeys(("category", "owner", "action", "source"), str),
    **dict.fromkeys(("tier", "keep", "before", "after"), int),
    "counter_examples": list,
    "gate": bool,
}
_ALWAYS = ("id", "role", "regex", "example", "why")
_FOR_FAILURES = ("category", "tier", "owner", "action", "source")
_BOUNDS = {"tier": 9, "keep": 4096, "before": 1000, "after": 1000}


def _parse_row(table: Any, number: int, file: str, family: str) -> Signature:
    name = table.get("id", f"number {number}") if isinstance(table, dict) else f"number {number}"
    try:
        return _row_of(table, file, family)
    except (ValueError, re.error) as exc:
        raise BadSignature(f"{file}: row '{name}': {exc}") from None


def _row_of(table: Any, file: str, family: str) -> Signature:
    _check_fields(table)
    role = Role(table["role"])
    row = Signature(
        **{
            "gate": role not in UNGATED,
            **_DEFAULTS.get(role, {}),
            **table,
            "role": role,
            "category": Category(table.get("category", Category.UNKNOWN)),
            "counter_examples": tuple(table.get("counter_examples", ())),
            "family": family,
            "file": file,
            "pattern": _compile(table["regex"]),
            "exception": re.compile(table["unless"].encode()) if "unless" in table else None,
        }
    )
    if row.source == "K" and row.action == Action.STOP:
        raise ValueError("expert knowledge (source K) may not carry STOP until a real log has shown it")
    if not row.matches(row.example):
        raise ValueError("the regex does not match the row's own example")
    for text in row.counter_examples:
        if row.matches(text):
            raise ValueError(f"the row matches its counter-example '{text}'")
    return row


def _check_fields(table: Any) -> None:
    if not isinstance(table, dict):
        raise ValueError("is not a table")
    for key, value in table.items():
        if key not in _FIELDS:
            raise ValueError(f"unknown field '{key}'")
        if type(value) is not _FIELDS[key]:
            raise ValueError(f"field '{key}' must be of type {_FIELDS[key].__name__}")
        if value == "":
            raise ValueError(f"field '{key}' is empty")
        if isinstance(value, int) and not 0 <= value <= _BOUNDS.get(key, value):
            raise ValueError(f"field '{key}' must be between 0 and {_BOUNDS[key]}")
    structural = table.get("role") in STRUCTURAL
    for key in _ALWAYS if structural else _ALWAYS + _FOR_FAILURES:
        if key not in table:
            raise ValueError(f"field '{key}' is missing")
    if not all(isinstance(text, str) for text in table.get("counter_examples", ())):
        raise ValueError("field 'counter_examples' must hold texts")
    _check_choice(table, "role", frozenset(Role))
    _check_choice(table, "category", frozenset(Category))
    _check_choice(table, "action", SIGNATURE_ACTIONS)


def _check_choice(table: dict[str, Any], key: str, choices: frozenset[str]) -> None:
    if key in table and table[key] not in choices:
        raise ValueError(f"{key} '{table[key]}' is not one of {', '.join(sorted(choices))}")


def _compile(regex: str) -> re.Pattern[bytes]:
    confine(regex)
    pattern = re.compile(regex.encode("utf-8"), re.MULTILINE)
    if pattern.search(b""):
        raise ValueError("the regex matches an empty line")
    return pattern
