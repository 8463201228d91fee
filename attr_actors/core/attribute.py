"""Evidence to attribution: ask the rules in order, write the answer out. No model is needed, and none is asked here."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from attr_actors.core.counting import GroupCounter
from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import summarize
from attr_actors.core.rules.ends import nothing_failed
from attr_actors.core.rules.order import RULES
from attr_actors.core.signatures.library import Role
from attr_actors.core.sparse import Scan, Segment
from attr_actors.core.verdicts import Verdict
from attr_actors.models import Action, Attempt, Attribution, Cascade, Category, Line, Suspect

TEXT_CHARS_MAX = 1_000
ROOT_LINES_MAX = 8
EVIDENCE_LINES_MAX = 80
CASCADES_MAX = 40
RANKS_MAX = 1_024
PARTIAL_CONFIDENCE_MAX = 0.5
CLOCK_LINES = 200
"""A log whose last lines show no clock has none."""


def decide(evidence: Evidence, without: Collection[str] = ()) -> Verdict:
    """Return the verdict of the first rule that answers. ``without`` names rules to leave out, for ablation."""
    for rule in RULES:
        if rule.__name__ not in without and (verdict := rule(evidence)) is not None:
            return verdict
    return nothing_failed(evidence)


def attribute(
    evidence: Evidence,
    verdict: Verdict,
    attempts: Sequence[Attempt],
    evidence_bytes_max: int,
    scan: Scan,
) -> Attribution:
    """Return the attribution of one attempt."""
    partial = scan.partial
    nodes = tuple(dict.fromkeys(s.name for s in verdict.suspects if s.kind == "node"))
    action = verdict.action
    if action is Action.EXCLUDE and not nodes:
        action = Action.RESTART  # Nothing can be excluded where no node is named.
    if action is Action.STOP and partial:
        action = Action.RESTART  # What was not read could show that the run went on.
    roots = _unique(verdict.roots)[:ROOT_LINES_MAX]
    failed = action is not Action.CONTINUE
    return Attribution(
        action=action,
        category=verdict.category,
        signature=verdict.signature,
        owner=verdict.owner,
        rule=verdict.rule,
        root_cause=verdict.sentence[:TEXT_CHARS_MAX],
        root_lines=tuple(cite(line) for line in roots),
        evidence=tuple(cite(line) for line in _further(evidence, roots, evidence_bytes_max)),
        cascade=_cascades(evidence, verdict.event, scan.segments) if failed else (),
        suspects=tuple(_suspects(verdict)),
        exclude_nodes=nodes if action is Action.EXCLUDE else (),
        progress=summarize(evidence.steps, evidence.saves, _ended_at(evidence)),
        attempts=tuple(attempts),
        fingerprint=fingerprint_of(verdict) if failed else None,
        confidence=min(verdict.confidence, PARTIAL_CONFIDENCE_MAX) if partial else verdict.confidence,
        coverage="partial" if partial else "full",
        coverage_note=partial,
    )


def _ended_at(evidence: Evidence) -> float | None:
    """Return the last clock of the attempt."""
    tail = evidence.lines[max(evidence.first, evidence.last - CLOCK_LINES) : evidence.last]
    return next((line.at for line in reversed(tail) if line.at is not None), None)


def cite(line: LogLine) -> Line:
    """Return a line as cited: its place, rank, node and text."""
    piece = line.piece
    return Line(
        line_number=piece.line_number, byte_offset=piece.byte_offset, text=piece.text[:TEXT_CHARS_MAX], rank=line.rank, node=line.node
    )


def fingerprint_of(verdict: Verdict) -> str | None:
    """Return a short hash that is equal for repeats of the same failure, whatever its rank, step or address."""
    if verdict.event is None:
        return None
    frames = [function for _, function in verdict.event.trace.frames[-2:]] if verdict.event.trace else []
    text = "|".join([verdict.category.value, verdict.event.shape, *frames])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _suspects(verdict: Verdict) -> list[Suspect]:
    found = list(verdict.suspects)
    line = None if verdict.event is None or _is_written_by_a_victim(verdict, verdict.event) else verdict.event.line
    if line is not None and verdict.action is not Action.CONTINUE:
        named = {(s.kind, s.name) for s in found}
        if line.node and ("node", line.node) not in named:
            found.append(Suspect(kind="node", name=line.node, reason="wrote the root line"))
        if line.rank is not None and not any(s.kind == "rank" for s in found):
            found.append(Suspect(kind="rank", name=str(line.rank), reason="wrote the root line"))
    return found


def _is_written_by_a_victim(verdict: Verdict, event: Event) -> bool:
    """Tell whether the one who writes the line was hit by another's fault: that is so where a connection was lost to a known peer."""
    return event.role in (Role.CASCADE, Role.TEARDOWN) or (verdict.category is Category.NETWORK_NCCL and bool(verdict.suspects))


def _unique(lines: Sequence[LogLine]) -> list[LogLine]:
    seen: set[int] = set()
    return [line for line in lines if line.index not in seen and not seen.add(line.index)]  # type: ignore[func-returns-value]


_WEIGHT = {Role.HARDWARE: 0, Role.PRIMARY: 1, Role.SCHEDULER: 1, Role.CONFIRMATION: 2, Role.GENERIC: 3, Role.CASCADE: 4, Role.TEARDOWN: 5}


def _further(evidence: Evidence, roots: Sequence[LogLine], bytes_max: int) -> list[LogLine]:
    """Return further lines, best first: one of each shape, firm before vague, inside the byte budget."""
    taken = {line.index for line in roots}
    shapes: set[str] = {line.body for line in roots}
    ranked = sorted(evidence.events, key=lambda e: (e.warned, not e.firm, _WEIGHT.get(e.role, 9), e.index))
    chosen: list[LogLine] = []
    budget = bytes_max
    for event in ranked:
        for line in [event.line, *event.chain, *(event.trace.more[:2] if event.trace else [])]:
            cost = min(len(line.piece.text), TEXT_CHARS_MAX)
            if line.index in taken or (line is event.line and event.shape in shapes) or cost > budget:
                continue
            taken.add(line.index)
            shapes.add(event.shape)
            budget -= cost
            chosen.append(line)
            if len(chosen) >= EVIDENCE_LINES_MAX:
                return chosen
    return chosen


def _cascades(evidence: Evidence, root: Event | None, segments: Sequence[Segment]) -> tuple[Cascade, ...]:
    """Group the other events by row, with counts, ranks and nodes."""
    groups: dict[str, list[Event]] = {}
    for event in evidence.events:
        if event is not root and not event.warned:
            groups.setdefault(event.row.id, []).append(event)
    counter = GroupCounter(evidence, segments)
    found = []
    for name, events in sorted(groups.items(), key=lambda group: group[1][0].line.piece.byte_offset)[:CASCADES_MAX]:
        count, at_least = counter.count(name, {e.line.number for e in events}, root.line.number if root else None)
        ranks = sorted({e.line.rank for e in events if e.line.rank is not None})
        nodes = sorted({e.line.node for e in events if e.line.node is not None})
        found.append(
            Cascade(
                signature=name,
                count=count,
                at_least=at_least,
                ranks=tuple(ranks)[:RANKS_MAX],
                nodes=tuple(nodes)[:RANKS_MAX],
                first=cite(events[0].line),
            )
        )
    return tuple(found)
