"""Sample lines of failures as training systems print them, with the expected answer. Written for this project."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CASES = Path(__file__).parent / "cases"


class Case(NamedTuple):
    """One sample. Several categories or actions may be right; ``root`` is part of the line that must be cited first."""

    name: str
    categories: tuple[str, ...]
    actions: tuple[str, ...]
    root: str
    log: str


def read_cases() -> list[Case]:
    """Read all samples: ``=== name | categories | actions | root`` and the log below it."""
    found = []
    for path in sorted(CASES.glob("*.txt")):
        for block in ("\n" + path.read_text("utf-8")).split("\n=== ")[1:]:
            head, _, log = block.partition("\n")
            name, categories, actions, root = (part.strip() for part in head.split("|", 3))
            found.append(Case(name, tuple(categories.split(",")), tuple(actions.split(",")), root, log + "\n"))
    return found
