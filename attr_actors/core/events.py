"""An event: a fact on a line, as the signature rows read it. Hold in mind: what it means is the rules' business."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from attr_actors.core.attempts import shape
from attr_actors.core.categories import Reading, read_exception
from attr_actors.core.causes import NAN_ROW, best_row, choose_cause, telling_line
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import shows_no_number
from attr_actors.core.signatures.library import Role, Signature
from attr_actors.core.tracebacks import Traceback, names_exception
from attr_actors.models import Action, Category

WARNING = re.compile(r"\b\w*Warning: |\bwarnings?\.warn\(|(?:^|\[)W\d{3,4} |\[W[ :\d]|\bWARNING\b|\bWARN\b(?!.{0,12}NET/IB)|\[WARN")
DUMP = re.compile(
    r"""^\s*["']?[\w./-]+["']?\s*(?:\.{4,}\s|=\s*\S|:\s+(?:True|False|None|\d[\d.e-]*|'[^']*'|"[^"]*"),?\s*$)|\bNamespace\(|^\s*[{}\]]"""
)
ADVICE = re.compile(
    r"(?i)\bif you (?:see|encounter|get|want)|\bin case of|\bto avoid\b|\bmight (?:be|cause|lead|result)"
    r"|\bmay (?:be|cause|lead|result)|\bin order to|\bconsider\b|\bcan lead to"
)
"""What could happen, or be done. An exception's message gives advice, too, as that of CUDA out of memory does."""
SURVIVED = re.compile(
    r"(?i)\bskipping\b|\bignor(?:ed|ing)\b|\bretry(?:ing)?\b|\bfall(?:ing)? ?back\b|\bwill (?:be|use"
    r"|not|try|default|start)\b|\bdefault(?:ing)? to\b|\bdisabled?\b"
)
GIVES_UP = re.compile(r"(?i)\b(?:stopping|ending|aborting|exiting|terminating) (?:the )?(?:training|run|program|job)\b")
"""A warning that announces the end is no mere warning."""
LEVEL_WORD = re.compile(r"(?:\b|_)(?:ERROR|FATAL|CRITICAL|Error|Fatal|error|fatal)\b|^E\d{3,4} |\[E ")
FRAME_ECHO = re.compile(
    r"^frame #\d+: |^\s+\d+ \| |^\s{2,}(?:raise|return|assert|self\.|if |for |with |try|except|import|from) ?|^\s*\^+\s*$"
)
PEER_ROW = "connection_lost"
PEER_CODE = re.compile(r"multiprocessing/(?:connection|managers|queues|resource_sharer|popen_\w+)\.py|multiprocessing/reductions\.py")


@dataclass(eq=False)
class Event:
    """A fact on a line: the row that reads it, what failed by that reading, and how firmly the line says so.

    ``firm``: an exception that ended its traceback, or a message that stands at the start of its line; ``warned``: the line
    calls itself a warning or speaks of what could happen; ``uncaught``: the exception ended a program or a process.
    """

    line: LogLine
    row: Signature
    category: Category
    action: str
    owner: str
    trace: Traceback | None = None
    firm: bool = True
    warned: bool = False
    uncaught: bool = False
    chain: list[LogLine] = field(default_factory=list)

    @property
    def index(self) -> int:
        """Return the place of the line among the kept lines."""
        return self.line.index

    @property
    def role(self) -> Role:
        """Return the role of the deciding row."""
        return self.row.role

    @property
    def is_generic(self) -> bool:
        """Tell whether only the exception's type is known."""
        return self.row.is_generic

    @cached_property
    def shape(self) -> str:
        """Return the message with numbers levelled: equal on all ranks that fail alike."""
        return f"{self.row.id}:{shape(self.line.body)[:160]}"


def line_event(line: LogLine, matched: Sequence[Signature]) -> Event | None:
    """Return the event of a line outside tracebacks; None for noise, echoed source and structure."""
    failing = [row for row in matched if not row.is_structural]
    if (
        not failing
        or FRAME_ECHO.match(line.body)
        or any(row.role is Role.NOISE for row in failing if row.tier <= min(r.tier for r in failing))
    ):
        return None
    row = min((r for r in failing if r.role is not Role.NOISE), key=lambda r: r.tier, default=None)
    if row is None or (row.id == NAN_ROW and not shows_no_number(line.body)):
        return None
    is_soft = row.role in (Role.PRIMARY, Role.GENERIC, Role.CONFIRMATION)
    warned = is_soft and (line.level in ("D", "I") or _only_mentions(line.body))
    firm = not warned and (not is_soft or _states_a_failure(line, row))
    reading = Reading(row, row.category, row.action, row.owner)
    if row.role is not Role.SCHEDULER and names_exception(line.body) and is_soft:
        reading = read_exception(line.body, "", [], row)
    return Event(line, reading.row, reading.category, reading.action, reading.owner, None, firm, warned)


def _only_mentions(body: str) -> bool:
    """Tell whether a line warns, speaks of what could happen, or shows a value."""
    if GIVES_UP.search(body):
        return False
    if WARNING.search(body[:200]) or SURVIVED.search(body):
        return True
    return not names_exception(body) and bool(ADVICE.search(body) or DUMP.match(body))


def _states_a_failure(line: LogLine, row: Signature) -> bool:
    """Tell whether a line outside a traceback reports a failure, instead of mentioning a word."""
    if line.level in ("I", "D", "W") and not GIVES_UP.search(line.body):
        return False
    return row.tier <= 3 or bool(names_exception(line.body)) or bool(LEVEL_WORD.search(line.body[:160]))


def traceback_event(trace: Traceback, rows: Sequence[Signature]) -> Event:
    """Return the event of a chain of tracebacks, placed at the exception that caused the others."""
    chain = [t for t in trace.chain() if t.end is not None]
    root = choose_cause(chain, rows)
    assert root.end is not None
    row = best_row(root, rows)
    if (row is None or row.is_generic) and root.frames and any(PEER_CODE.search(file) for file, _ in root.frames[-2:]):
        row = next((r for r in rows if r.id == PEER_ROW), row)  # A pipe to another process broke: that process is the cause.
    reading = read_exception(root.end.body, root.text, root.frames, row)
    others = [t.end for t in chain if t.end is not None and t is not root]
    event = Event(telling_line(root), reading.row, reading.category, reading.action, reading.owner, root, chain=others)
    event.warned = any(t.ignored for t in chain)
    event.firm = not event.warned
    event.uncaught = any(t.is_uncaught for t in chain)
    return event


def as_action(name: str) -> Action:
    """Return a row's action as the enum: CONFIRM means one more try."""
    return Action.RESTART if name == "CONFIRM" else Action(name)
