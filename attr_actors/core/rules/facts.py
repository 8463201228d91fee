"""Facts that win wherever they stand. Hold in mind: the kernel and the scheduler often print last what happened first."""

from __future__ import annotations

import re

from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.progress import nan_until_the_end, only_gradient_is_nan
from attr_actors.core.rules import clearing, selection
from attr_actors.core.signatures.library import Role
from attr_actors.core.verdicts import Verdict, verdict_of
from attr_actors.models import Category, Suspect

LATE_HARDWARE_S = 600.0
FOREIGN_CLOCK_S = 30 * 86_400.0
"""A greater distance means that one of the clocks does not show its year."""
FAILED_NODE = re.compile(r"[Nn]ode failure on ([\w.-]+)")
"""The node behind ON in a cancellation is the batch host, not the one that failed."""
FAILED_TASK = re.compile(r"srun: error: \S+: tasks? [\d,-]+: (?:Exited|Aborted|Segmentation)")
NAN_LINES_MIN = 3
"""A finished run with fewer NaN lines may have shown an empty last batch."""


def hardware_fact_wins(evidence: Evidence) -> Verdict | None:
    """Broken hardware explains every later message, and the kernel often prints it last; the earliest of several wins."""
    facts = [e for e in evidence.of(Role.HARDWARE) if not clearing.progress_clears(e, evidence) and not _too_late(e, evidence)]
    if not facts:
        return None
    event = facts[0]
    verdict = verdict_of("hardware_fact_wins", event, f"Hardware failed: {event.row.why}", 0.95)
    if not verdict.suspects and (node := evidence.node_of(event.line)) is not None:
        verdict.suspects.append(Suspect(kind="node", name=node, reason=f"runs rank {event.line.rank}, which met the fault"))
    if not verdict.suspects and (node := _only_failed_node(evidence)) is not None:
        verdict.suspects.append(Suspect(kind="node", name=node, reason="is the only one whose tasks failed by themselves"))
    return verdict


def _only_failed_node(evidence: Evidence) -> str | None:
    """Return the node of the tasks that srun saw fail, if there is one only: what ``srun`` ended afterwards does not count."""
    bodies = [e.line for e in evidence.of(Role.TEARDOWN) if FAILED_TASK.search(e.line.body)]
    nodes = {line.node for line in bodies if line.node}
    return nodes.pop() if len(nodes) == 1 else None


def _too_late(event: Event, evidence: Evidence) -> bool:
    """A kernel line more than ten minutes after the last error belongs to another story."""
    errors = [e.index for e in evidence.events if e.role is not Role.HARDWARE]
    if event.line.at is None or not errors:
        return False
    clocks = [line.at for line in evidence.lines[evidence.first : max(errors) + 1] if line.at is not None and line is not event.line]
    return bool(clocks) and LATE_HARDWARE_S < event.line.at - clocks[-1] < FOREIGN_CLOCK_S


def node_failure_wins(evidence: Evidence) -> Verdict | None:
    """The scheduler's word that a node died is final: all other messages are fallout."""
    facts = [e for e in evidence.of(Role.SCHEDULER) if e.row.tier == 1 and not clearing.progress_clears(e, evidence)]
    if not facts:
        return None
    named = [(e, m[1]) for e in facts if (m := FAILED_NODE.search(e.line.body))]
    event = named[0][0] if named else facts[0]
    verdict = verdict_of("node_failure_wins", event, f"A node was lost: {event.row.why}", 0.95)
    verdict.roots += [e.line for e in facts if e is not event]
    verdict.suspects = [
        Suspect(kind="node", name=name, reason="the scheduler reported its failure") for name in dict.fromkeys(n for _, n in named)
    ]
    return verdict


def loss_is_no_number(evidence: Evidence) -> Verdict | None:
    """A loss that stays NaN to the end makes the run useless, even where it finishes or raises something later."""
    events = [e for e in evidence.events if e.row.id == selection.NAN and not clearing.progress_clears(e, evidence)]
    is_lasting = nan_until_the_end(evidence.steps) or len(events) >= NAN_LINES_MIN
    if not events or not is_lasting or (evidence.dones and len(events) < NAN_LINES_MIN):
        return None
    if len(events) < NAN_LINES_MIN and only_gradient_is_nan(events[0].line.body):
        return None  # A few skipped steps are part of mixed precision.
    if any(e.index < events[0].index or e.category is Category.NUMERICAL for e in selection.standing_primaries(evidence)):
        return None  # What came first is the cause, and what the program says of its own check is the better word.
    return verdict_of("loss_is_no_number", events[0], "The loss became NaN or infinite and stayed so.", 0.7)
