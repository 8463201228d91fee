"""The first error of all ranks. Hold in mind: a library may have told the fact before Python raised it."""

from __future__ import annotations

import re

from attr_actors.core import nccl
from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.lines import LogLine
from attr_actors.core.rules import selection
from attr_actors.core.signatures.library import Role
from attr_actors.core.verdicts import Verdict, sentence_of, verdict_of
from attr_actors.models import Action, Category, Suspect

FIRST_FAILURE_RANK = re.compile(r"^\s*rank\s*: (\d+) \(local_rank: \d+\)")
SPECIFIC_WITHIN_LINES = 15
NO_DEVICE = "cuda_unavailable"
KILLED_WORKER = "dataloader_killed"
TELLING_TIER_MAX = 3
TELLING_WITHIN_LINES = 400
NATIVE_FAMILIES = frozenset({"communication", "cuda program", "gpu hardware", "memory"})
"""What C++ finds out and logs by itself before Python hears of it."""


def first_error_is_the_root(evidence: Evidence) -> Verdict | None:
    """Of all ranks' errors the first is the cause; communication errors are consequences and wait for their own rule."""
    candidates = selection.standing_primaries(evidence)
    if not candidates:
        return None
    named = first_failed_rank(evidence)
    first = next((e for e in candidates if named is not None and e.line.rank == named and e.trace is not None), candidates[0])
    event = killer_of_the_worker(more_specific(raised_after_logged(first, candidates), candidates), candidates)
    verdict = verdict_of("first_error_is_the_root", event, sentence_of(event), 0.6 if event.is_generic else 0.85)
    verdict.roots = [first_telling(event, evidence), *verdict.roots]
    if event.category is Category.NETWORK_NCCL:
        verdict.suspects += nccl.read_forensics(evidence).suspects
    if event.row.id == NO_DEVICE:
        _exclude_the_odd_node(verdict, event, candidates, evidence)
    return verdict


def _exclude_the_odd_node(verdict: Verdict, event: Event, candidates: list[Event], evidence: Evidence) -> None:
    """A node without its GPUs is at fault where other ranks of the job had theirs."""
    node = evidence.node_of(event.line)
    without = {e.line.rank for e in candidates if e.row is event.row}
    if node is not None and len(evidence.ranks) > len(without):
        verdict.action = Action.EXCLUDE
        verdict.suspects.append(Suspect(kind="node", name=node, reason="has no usable GPU, while other ranks have one"))


def raised_after_logged(first: Event, candidates: list[Event]) -> Event:
    """A library that logs a failure and then raises it is cited where it raises: there stands who asked for what."""
    if first.trace is not None or first.row.family in NATIVE_FAMILIES:
        return first
    near = [e for e in candidates if e.trace is not None and e.row is first.row and e.line.rank == first.line.rank]
    return next((e for e in near if 0 < e.line.number - first.line.number <= TELLING_WITHIN_LINES), first)


def killer_of_the_worker(first: Event, candidates: list[Event]) -> Event:
    """A worker that was killed is explained by the memory fact that names the killer; it is printed later and proves the cause."""
    if first.row.id != KILLED_WORKER:
        return first
    return next((e for e in candidates if e.role is Role.CONFIRMATION and e.category is first.category), first)


def first_failed_rank(evidence: Evidence) -> int | None:
    """Read torchelastic's pointer to the rank whose failure it observed first."""
    seen = False
    for line in evidence.lines[evidence.first : evidence.last]:
        if "Root Cause (first observed failure)" in line.body:
            seen = True
        elif seen and (m := FIRST_FAILURE_RANK.match(line.body)):
            return int(m[1])
    return None


def more_specific(first: Event, candidates: list[Event]) -> Event:
    """The specific beats the generic within one rank and a few lines: a wrapper is often printed before its cause."""
    if not first.is_generic:
        return first
    near = [
        e
        for e in candidates
        if e.row.tier < first.row.tier
        and 0 <= e.line.number - first.line.number <= SPECIFIC_WITHIN_LINES
        and e.line.rank == first.line.rank
    ]
    return min(near, key=lambda e: (e.row.tier, e.index), default=first)


def first_telling(event: Event, evidence: Evidence) -> LogLine:
    """Return the first line of the event's row shortly before it: libraries log the fact before Python raises it."""
    if event.row.tier > TELLING_TIER_MAX or event.row.family not in NATIVE_FAMILIES:
        return event.line
    for other in evidence.events:
        distance = event.line.number - other.line.number
        if (
            other.row is event.row
            and other.trace is None
            and 0 < distance <= TELLING_WITHIN_LINES
            and other.line.rank == event.line.rank
            and _tells(other)
        ):
            return other.line
    return event.line


def _tells(event: Event) -> bool:
    """Tell whether a line outside tracebacks reports at warning level or above; libraries warn of a fact before they give up."""
    return event.firm or (event.warned and event.line.level in ("W", "E"))
