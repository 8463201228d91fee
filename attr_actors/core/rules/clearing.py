"""Which events the run got over. Hold in mind: what a run survived is not why it ended."""

from __future__ import annotations

from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import loss_is_finite_after
from attr_actors.core.signatures.library import Role

SURVIVED_LINES = 40
"""Ordinary lines after an exception from which on its process, or the run, must have gone on."""
GRACE_S = 120.0
GRACE_LINES = 30
"""What a program may still write after the scheduler's word, by its clock or else by lines."""
CERTAIN_TIER = 2
"""Scheduler facts up to this tier end the job in any case."""


def progress_clears(event: Event, evidence: Evidence) -> bool:
    """A completed step after an event shows that the run went on: recovered."""
    if event.row.id == "nan_loss":
        return loss_is_finite_after(evidence.steps, event.index)
    if event.role is Role.SCHEDULER and event.row.tier <= CERTAIN_TIER and not _outlived_the_grace(event, evidence):
        return False
    return evidence.made_progress_after(event)


def _outlived_the_grace(event: Event, evidence: Evidence) -> bool:
    """Between a scheduler's word and its kill lie seconds in which a program still completes steps."""
    last = evidence.steps[-1].line if evidence.steps else None
    if last is None:
        return False
    if last.at is not None and event.line.at is not None:
        return last.at - event.line.at > GRACE_S
    return last.number - event.line.number > GRACE_LINES


def run_went_on(event: Event, evidence: Evidence) -> bool:
    """Many ordinary lines after an exception show that somebody caught it."""
    return ordinary_lines_after(event.line, evidence) >= SURVIVED_LINES


def ordinary_lines_after(line: LogLine, evidence: Evidence) -> int:
    """Count the lines after a line, in its stream where it has one, that are neither failure nor farewell."""
    return evidence.ordinary_after(line.stream, line.index)
