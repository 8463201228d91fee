"""The evidence of one attempt: events, steps, checkpoints, ends. Hold in mind: the rules see this and nothing else."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from attr_actors.core.events import Event, line_event, traceback_event
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import Step, made_progress_after
from attr_actors.core.signatures.library import Role, Signature
from attr_actors.core.tracebacks import Traceback, TracebackReader

AFTERMATH = re.compile(
    r"^\s*$|^\s*[-=*#~_+|]{3,}|^wandb:|^srun:|^slurmstepd:|^\s+\S|NCCL INFO|Warning\b|warnings\.warn|^\[[EWI]"
    r"|^[EWI]\d{4} |closing signal|exitcode|error_file|Extension modules|^Thread 0x"
    r"|^frame #|^#\d+|leaked|semaphore|\bepilog|\bsacct\b|^real\s|^user\s|^sys\s|^(?:Mon|Tue|Wed|Thu|Fri|Sat"
    r"|Sun) |[Ee]xit|[Kk]ill|[Tt]erminat|[Ss]hut(?:ting)? ?down|[Cc]lean"
)
SAME_DIGITS = str.maketrans("123456789", "000000000")
"""The expression above asks for digits, but for no certain one."""

ORDINARY_MAX = 500


@dataclass(eq=False)
class Evidence:
    """What one attempt shows."""

    lines: Sequence[LogLine]
    rows: Sequence[Signature]
    first: int
    last: int
    events: list[Event]
    steps: list[Step]
    saves: list[LogLine]
    dones: list[LogLine]
    tracebacks: list[Traceback]
    _ordinary: dict[str, tuple[Sequence[int], list[int]]] = field(default_factory=dict)
    _progress: dict[tuple[int, str], bool] = field(default_factory=dict)
    _aftermath: dict[str, bool] = field(default_factory=dict)

    def of(self, *roles: Role) -> list[Event]:
        """Return the events of some roles, in the file's order."""
        return [e for e in self.events if e.role in roles]

    def made_progress_after(self, event: Event) -> bool:
        """Tell whether new steps were completed behind an event; the same between two steps, so asked once for each gap."""
        gap = bisect_right(self.steps, event.index, key=lambda s: s.line.index)
        key = (gap, event.line.stream)
        if key not in self._progress:
            self._progress[key] = made_progress_after(self.steps, gap, event.line.stream)
        return self._progress[key]

    def ordinary_after(self, stream: str, index: int) -> int:
        """Count the lines behind a place that are neither failure nor farewell, up to a limit.

        In a labelled stream its own lines count; without a label all do, and lines that were not kept are ordinary.
        """
        if stream not in self._ordinary:
            own = self._places.get(stream, []) if stream else range(self.first, self.last)
            self._ordinary[stream] = self._count_ordinary(own, not stream)
        places, counts = self._ordinary[stream]
        place = bisect_right(places, index) - 1
        return counts[place] if place >= 0 else 0

    def _count_ordinary(self, places: Sequence[int], gaps: bool) -> tuple[Sequence[int], list[int]]:
        """Return the places and, for each, how many ordinary lines follow it."""
        counts = [ORDINARY_MAX] * len(places)
        counts[-1:] = [0]
        total = 0
        for i in range(len(places) - 1, 0, -1):
            line, before = self.lines[places[i]], self.lines[places[i - 1]]
            total += line.number not in self._failing and not self._is_aftermath(line.body)
            total += max(0, line.number - before.number - 1) if gaps else 0
            if total >= ORDINARY_MAX:
                break  # No rule asks for more.
            counts[i - 1] = total
        return places, counts

    def _is_aftermath(self, body: str) -> bool:
        """Tell whether a line says farewell; lines that differ in digits only, as steps do, are judged once."""
        key = body.translate(SAME_DIGITS)
        if key not in self._aftermath:
            self._aftermath[key] = AFTERMATH.search(body) is not None
        return self._aftermath[key]

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Return the places of each labelled stream's lines."""
        found: dict[str, list[int]] = {}
        for line in self.lines[self.first : self.last]:
            if line.stream:
                found.setdefault(line.stream, []).append(line.index)
        return found

    @cached_property
    def _failing(self) -> frozenset[int]:
        """Return the numbers of lines that belong to events, tracebacks and their messages."""
        numbers = {e.line.number for e in self.events}
        numbers |= {more.number for t in self.tracebacks for more in t.more}
        return frozenset(numbers | {t.end.number for t in self.tracebacks if t.end})

    def node_of(self, line: LogLine) -> str | None:
        """Return the node of a line, by its rank where another line names both."""
        return line.node or (self._nodes.get(line.rank) if line.rank is not None else None)

    @cached_property
    def _nodes(self) -> dict[int, str]:
        """Return the node of each rank that a line names together with it."""
        own = self.lines[self.first : self.last]
        return {line.rank: line.node for line in own if line.rank is not None and line.node is not None}

    @cached_property
    def ranks(self) -> frozenset[int]:
        """Return all ranks that wrote a kept line."""
        return frozenset(line.rank for line in self.lines[self.first : self.last] if line.rank is not None)


def collect_evidence(lines: Sequence[LogLine], rows: Sequence[Signature], reader: TracebackReader, first: int, last: int) -> Evidence:
    """Collect the events, steps, checkpoints and ends of one attempt."""
    ends = {t.end.index: t for t in reader.tracebacks if t.end is not None}
    inner = {id(t.cause) for t in reader.tracebacks if t.cause is not None}
    events: list[Event] = []
    found = Evidence(lines, rows, first, last, events, [], [], [], [])
    for line in lines[first:last]:
        trace = ends.get(line.index)
        if trace is not None:
            found.tracebacks.append(trace)
            if id(trace) not in inner:
                events.append(traceback_event(trace, rows))
        elif line.index not in reader.inside:
            _read_line(line, rows, found)
    events.sort(key=lambda e: e.index)
    return found


def _read_line(line: LogLine, rows: Sequence[Signature], found: Evidence) -> None:
    matched = [rows[r] for r in line.piece.rows]
    roles = {row.role for row in matched}
    if Role.ITERATION in roles:
        found.steps.append(Step(line))
    if Role.CHECKPOINT in roles:
        found.saves.append(line)
    if Role.DONE in roles:
        found.dones.append(line)
    event = line_event(line, matched)
    if event is not None:
        found.events.append(event)
