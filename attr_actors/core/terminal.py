"""Attribution -> what an operator wants to read in a terminal."""

from __future__ import annotations

import re
import textwrap

from attr_actors.core.rendering import ranges
from attr_actors.models import Action, Attribution, Line

LINES_SHOWN = 3
"""Cited lines per answer: enough to believe it, few enough for a screen of ten answers."""

VERDICTS = {
    Action.RESTART: "RESTART",
    Action.EXCLUDE: "RESTART WITHOUT",
    Action.STOP: "STOP: DO NOT RESTART",
    Action.CONTINUE: "NOTHING FAILED",
    Action.UNKNOWN: "RESTART (cause unknown)",
}
COLOURS = {Action.STOP: "31", Action.CONTINUE: "32", Action.UNKNOWN: "33", Action.RESTART: "36", Action.EXCLUDE: "36"}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render_terminal(name: str, found: Attribution, width: int, colour: bool = False) -> str:
    """Return a few lines that say what died, why, which lines prove it, and what to do next."""
    verdict = VERDICTS[found.action] + (" " + ", ".join(found.exclude_nodes) if found.exclude_nodes else "")
    head = f"{shorten(name, max(20, width - len(verdict) - 2))}  {_paint(verdict, COLOURS[found.action], colour)}"
    rows = [head, *textwrap.wrap(plain(found.root_cause), width, initial_indent="  ", subsequent_indent="  ")]
    if found.action is not Action.CONTINUE:
        rows.append(shorten(f"  {found.category.value}, owner: {found.owner}, confidence {found.confidence:.0%}, by {_by(found)}", width))
    rows += [_render_line(line, width) for line in found.root_lines[:LINES_SHOWN]]
    rows += _consequences(found, width)
    rows += [shorten(f"  suspect {s.kind} {s.name}: {plain(s.reason)}", width) for s in found.suspects[:LINES_SHOWN]]
    rows += [shorten(f"  note: {note}", width) for note in (found.coverage_note, found.degraded) if note]
    return "\n".join([*rows, *_next_step(found, width)])


def _by(found: Attribution) -> str:
    return f"rule {found.rule}" if found.source == "rules" else "the model"


def _render_line(line: Line, width: int) -> str:
    where = f"rank {line.rank} " if line.rank is not None else ""
    return shorten(f"  line {line.line_number}: {where}{plain(line.text).strip()}", width)


def _consequences(found: Attribution, width: int) -> list[str]:
    """Say how many lines are only consequences, the largest groups first."""
    told = []
    for group in sorted(found.cascade, key=lambda group: -group.count)[:LINES_SHOWN]:
        ranks = f" (rank {ranges(group.ranks)})" if group.ranks else ""
        told.append(f"{'at least ' if group.at_least else ''}{group.count:,} x {group.signature}{ranks}")
    return [shorten(f"  followed by {', '.join(told)}", width)] if told else []


def _next_step(found: Attribution, width: int) -> list[str]:
    if found.exclude_nodes:
        return [shorten(f"  next: sbatch --exclude={','.join(found.exclude_nodes)} ...", width)]
    return []


def plain(text: str) -> str:
    """Return text without escape sequences and control characters: a log must not drive the reader's terminal."""
    return CONTROL.sub("", text.replace("\t", "    ").replace("\n", " "))


def shorten(text: str, width: int) -> str:
    """Cut text to a width, with an ellipsis."""
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[1;{code}m{text}\x1b[0m" if colour else text
