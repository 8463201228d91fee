"""The evidence of one attempt: events, steps, ends. Hold in mind: an event is a fact on a line; what it means is the rules' business."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from attr_actors.core.attempts import shape
from attr_actors.core.categories import Reading, read_exception
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import NAN_LOSS, Step, parse_step
from attr_actors.core.signatures.library import Role, Signature
from attr_actors.core.tracebacks import EXCEPTION, Traceback, TracebackReader
from attr_actors.models import Action, Category

WARNING = re.compile(r"\b\w*Warning: |\bwarnings?\.warn\(|(?:^|\[)W\d{3,4} |\[W[ :\d]|\bWARNING\b|\bWARN\b(?!.{0,12}NET/IB)|\[WARN")
DUMP = re.compile(
    r"""^\s*["']?[\w./-]+["']?\s*(?:\.{4,}\s|=\s*\S|:\s+(?:True|False|None|\d[\d.e-]*|'[^']*'|"[^"]*"),?\s*$)|\bNamespace\(|^\s*[{}\]]"""
)
CONDITIONAL = re.compile(
    r"(?i)\bif you (?:see|encounter|get|want)|\bin case of|\bto avoid\b|\bmight (?:be|cause|lead|result)"
    r"|\bmay (?:be|cause|lead|result)|\bin order to|\bconsider\b"
    r"|\bcan lead to|\bskipping\b|\bignor(?:ed|ing)\b|\bretry(?:ing)?\b|\bfall(?:ing)? ?back\b|\bwill (?:be|use"
    r"|not|try|default|start)\b|\bdefault(?:ing)? to\b|\bdisabled?\b"
)
LEVEL_WORD = re.compile(r"(?:\b|_)(?:ERROR|FATAL|CRITICAL|Error|Fatal|error|fatal)\b|^E\d{3,4} |\[E ")
FRAME_ECHO = re.compile(r"^\s{2,}(?:raise|return|assert|self\.|if |for |with |try|except|import|from) ?|^\s*\^+\s*$")
AFTERMATH = re.compile(
    r"^\s*$|^\s*[-=*#~_+|]{3,}|^wandb:|^srun:|^slurmstepd:|^\s+\S|NCCL INFO|Warning\b|warnings\.warn|^\[[EWI]"
    r"|^[EWI]\d{4} |closing signal|exitcode|error_file|Extension modules|^Thread 0x"
    r"|^frame #|^#\d+|leaked|semaphore|\bepilog|\bsacct\b|^real\s|^user\s|^sys\s|^(?:Mon|Tue|Wed|Thu|Fri|Sat"
    r"|Sun) |[Ee]xit|[Kk]ill|[Tt]erminat|[Ss]hut(?:ting)? ?down|[Cc]lean"
)
MESSAGE_LINES_READ = 12
NAN_ROW = "nan_loss"
"""Its regex is kept cheap for the scan: which value is no number is read here."""
PEER_ROW = "connection_lost"
PEER_CODE = re.compile(r"multiprocessing/(?:connection|managers|queues|resource_sharer|popen_\w+)\.py|multiprocessing/reductions\.py")


@dataclass(eq=False)
class Event:
    """A fact on a line: the row that reads it, what failed by that reading, and how firmly the line says so.

    ``firm``: an exception that ended its traceback, or a message that stands at the start of its line; ``warned``: the line
    calls itself a warning or speaks of what could happen.
    """

    line: LogLine
    row: Signature
    category: Category
    action: str
    owner: str
    trace: Traceback | None = None
    firm: bool = True
    warned: bool = False
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
    _ordinary: dict[str, list[int]] = field(default_factory=dict)

    def of(self, *roles: Role) -> list[Event]:
        """Return the events of some roles, in the file's order."""
        return [e for e in self.events if e.role in roles]

    def ordinary_after(self, stream: str, index: int) -> int:
        """Count the lines behind a place that are neither failure nor farewell; lines that were not kept are ordinary."""
        if stream not in self._ordinary:
            self._ordinary[stream] = self._count_ordinary(stream)
        return self._ordinary[stream][index - self.first]

    def _count_ordinary(self, stream: str) -> list[int]:
        """Return for each place how many ordinary lines follow it, in one stream or, for an unlabelled one, in all."""
        counts = [0] * (self.last - self.first)
        total = 0
        for place in range(self.last - self.first - 1, 0, -1):
            line, before = self.lines[self.first + place], self.lines[self.first + place - 1]
            if (not stream or line.stream == stream) and line.number not in self._failing and not AFTERMATH.search(line.body):
                total += 1
            if not stream:
                total += max(0, line.number - before.number - 1)
            counts[place - 1] = total
        return counts

    @cached_property
    def _failing(self) -> frozenset[int]:
        """Return the numbers of lines that belong to events, tracebacks and their messages."""
        numbers = {e.line.number for e in self.events}
        numbers |= {more.number for t in self.tracebacks for more in t.more}
        return frozenset(numbers | {t.end.number for t in self.tracebacks if t.end})

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
                events.append(_traceback_event(trace, rows))
        elif line.index not in reader.inside:
            _read_line(line, rows, found)
    events.sort(key=lambda e: e.index)
    return found


def _read_line(line: LogLine, rows: Sequence[Signature], found: Evidence) -> None:
    matched = [rows[r] for r in line.piece.rows]
    roles = {row.role for row in matched}
    if Role.ITERATION in roles:
        found.steps.append(parse_step(line))
    if Role.CHECKPOINT in roles:
        found.saves.append(line)
    if Role.DONE in roles:
        found.dones.append(line)
    event = _line_event(line, matched)
    if event is not None:
        found.events.append(event)


def _line_event(line: LogLine, matched: Sequence[Signature]) -> Event | None:
    """Return the event of a line outside tracebacks; None for noise, echoed source and structure."""
    failing = [row for row in matched if not row.is_structural]
    if (
        not failing
        or FRAME_ECHO.match(line.body)
        or any(row.role is Role.NOISE for row in failing if row.tier <= min(r.tier for r in failing))
    ):
        return None
    row = min((r for r in failing if r.role is not Role.NOISE), key=lambda r: r.tier, default=None)
    if row is None or (row.id == NAN_ROW and not NAN_LOSS.search(line.body)):
        return None
    is_soft = row.role in (Role.PRIMARY, Role.GENERIC, Role.CONFIRMATION)
    warned = is_soft and bool(
        line.level in ("D", "I") or WARNING.search(line.body[:200]) or CONDITIONAL.search(line.body) or DUMP.match(line.body)
    )
    firm = not warned and (not is_soft or _states_a_failure(line, row))
    reading = Reading(row, row.category, row.action, row.owner)
    if row.role is not Role.SCHEDULER and EXCEPTION.match(line.body) and is_soft:
        reading = read_exception(line.body, "", [], row)
    return Event(line, reading.row, reading.category, reading.action, reading.owner, None, firm, warned)


def _states_a_failure(line: LogLine, row: Signature) -> bool:
    """Tell whether a line outside a traceback reports a failure, instead of mentioning a word."""
    if line.level in ("I", "D", "W"):
        return False
    return row.tier <= 3 or bool(EXCEPTION.match(line.body)) or bool(LEVEL_WORD.search(line.body[:160]))


def _traceback_event(trace: Traceback, rows: Sequence[Signature]) -> Event:
    """Return the event of a chain of tracebacks, placed at the exception that caused the others."""
    chain = [t for t in trace.chain() if t.end is not None]
    root = choose_cause(chain, rows)
    assert root.end is not None
    row = _best_row(root, rows)
    if (row is None or row.is_generic) and root.frames and any(PEER_CODE.search(file) for file, _ in root.frames[-2:]):
        row = next((r for r in rows if r.id == PEER_ROW), row)  # A pipe to another process broke: that process is the cause.
    reading = read_exception(root.end.body, root.text, root.frames, row)
    others = [t.end for t in chain if t.end is not None and t is not root]
    event = Event(root.end, reading.row, reading.category, reading.action, reading.owner, root, chain=others)
    event.warned = any(t.ignored for t in chain)
    event.firm = not event.warned
    return event


WRAPPERS = frozenset(
    [
        "RayTaskError",
        "ChildFailedError",
        "ProcessRaisedException",
        "ProcessExitedException",
        "CalledProcessError",
        "RemoteTraceback",
        "InstantiationException",
        "BackendCompilerFailed",
        "RayActorError",
        "TrainingFailedError",
        "TuneError",
        "DatasetGenerationError",
        "ExceptionGroup",
        "BaseExceptionGroup",
    ]
)
LOOKUPS = frozenset(
    [
        "KeyError",
        "AttributeError",
        "StopIteration",
        "IndexError",
        "ImportError",
        "ModuleNotFoundError",
        "ValueError",
        "TypeError",
        "JSONDecodeError",
        "Empty",
    ]
)
"""How libraries try: what is raised while such an error is handled is the message for people."""
REQUESTS = frozenset(
    {
        "hub_unreachable",
        "http_server_error",
        "credentials",
        "object_store",
        "connection_lost",
        "name_resolution",
        "net_unreachable",
        "timeout_error",
    }
)
"""Rows of failed requests, which each layer of an HTTP client wraps again; the outermost names what was asked for."""
UNMISTAKABLE_TIER = 2


def choose_cause(chain: Sequence[Traceback], rows: Sequence[Signature] = ()) -> Traceback:
    """Return the exception of a chain that names the cause: the first raised one, with four exceptions.

    An interrupt and an unmistakable fact win wherever they stand; a failed lookup or a wrapper gives way to what was
    raised while it was handled; of one failed request's many layers the outermost is taken.
    """
    for trace in chain:
        if trace.name == "KeyboardInterrupt":
            return trace
    cause = _first_meant(chain)
    known = {id(t): _best_row(t, rows) for t in chain}
    row = known[id(cause)]
    if row is None or row.tier > UNMISTAKABLE_TIER:
        facts = [t for t in chain if (r := known[id(t)]) is not None and r.tier <= UNMISTAKABLE_TIER]
        cause = facts[0] if facts else cause
    if row is not None and row.id in REQUESTS:
        cause = [t for t in chain if (r := known[id(t)]) is not None and (r.id in REQUESTS or not r.is_generic)][-1]
    return cause


def _first_meant(chain: Sequence[Traceback]) -> Traceback:
    for trace, following in pairwise(chain):
        is_lookup = following.link == "during" and trace.name in LOOKUPS and following.name not in WRAPPERS
        if trace.name not in WRAPPERS and not is_lookup:
            return trace
    return chain[-1]


def _best_row(trace: Traceback, rows: Sequence[Signature]) -> Signature | None:
    assert trace.end is not None
    best = _most_specific(trace.end, rows)
    if best is None or best.is_generic:
        for line in trace.more[:MESSAGE_LINES_READ]:
            other = _most_specific(line, rows)
            if other is not None and not other.is_generic and other.role in (Role.PRIMARY, Role.HARDWARE, Role.CASCADE):
                return other
    return best


def _most_specific(line: LogLine, rows: Sequence[Signature]) -> Signature | None:
    failing = [row for row in matching_rows(line, rows) if not row.is_structural and row.role is not Role.NOISE]
    return min(failing, key=lambda r: r.tier, default=None)


def matching_rows(line: LogLine, rows: Sequence[Signature]) -> list[Signature]:
    """Return the rows that match a line; colours inside a message hide it from the scan, so such a line is read again."""
    if "\x1b" in line.piece.text and not line.piece.rows:
        return [row for row in rows if row.matches(line.body)]
    return [rows[r] for r in line.piece.rows]


def as_action(name: str) -> Action:
    """Return a row's action as the enum: CONFIRM means one more try."""
    return Action.RESTART if name == "CONFIRM" else Action(name)
