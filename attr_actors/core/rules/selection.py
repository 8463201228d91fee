"""Which events can be a root. Hold in mind: each preference is one function, so that its worth can be measured."""

from __future__ import annotations

from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.rules import clearing
from attr_actors.core.signatures.library import Role
from attr_actors.models import Category

KILL = "bare_killed"
NAN = "nan_loss"
OWN_RULE = frozenset({KILL, NAN})
SHELL = frozenset({"command_missing", "script_missing"})
VAGUE_TIER = 8
VAGUE_LINES_AFTER_MAX = 10


def primaries(evidence: Evidence) -> list[Event]:
    """Return the firm events that can be a root, in the file's order."""
    return [e for e in evidence.of(Role.PRIMARY, Role.CONFIRMATION, Role.GENERIC) if e.firm and not e.warned and e.row.id not in OWN_RULE]


def standing_primaries(evidence: Evidence) -> list[Event]:
    """Return the primaries that the run did not get over; where it got over all, the last burst still counts."""
    unrecovered = survived_before([e for e in primaries(evidence) if not clearing.progress_clears(e, evidence)], evidence)
    fatal = known_before_vague(program_before_shell([e for e in unrecovered if not was_left_behind(e, evidence)], evidence))
    return fatal or [e for e in unrecovered if e.trace is not None and not evidence.dones]


def survived_before(events: list[Event], evidence: Evidence) -> list[Event]:
    """What the run got over before, it gets over again, unless this time it ended the program."""
    if all(e.uncaught for e in events):
        return events
    known = {e.shape for e in primaries(evidence) if clearing.progress_clears(e, evidence)}
    return [e for e in events if e.uncaught or e.shape not in known]


def was_left_behind(event: Event, evidence: Evidence) -> bool:
    """Tell whether the run went on behind an event; a vague line outside tracebacks must stand at the very end."""
    if event.trace is None and event.is_generic:
        return clearing.ordinary_lines_after(event.line, evidence) > VAGUE_LINES_AFTER_MAX
    return clearing.run_went_on(event, evidence)


def program_before_shell(events: list[Event], evidence: Evidence) -> list[Event]:
    """A shell goes on after a command that it did not find: what a program raised or the scheduler did is what ended the run."""
    if any(e.trace is not None for e in events) or any(_ends_a_run(e) for e in evidence.events):
        return [e for e in events if not _is_shell(e)]
    return events


def _is_shell(event: Event) -> bool:
    return event.row.id in SHELL and event.trace is None


def _ends_a_run(event: Event) -> bool:
    """Tell whether an event proves that a program ran, and is reason enough for its end."""
    if event.role is Role.SCHEDULER:
        return event.row.tier <= clearing.CERTAIN_TIER
    return event.role is Role.CASCADE and event.category is Category.NETWORK_NCCL and not event.warned


def known_before_vague(events: list[Event]) -> list[Event]:
    """A line that only calls itself an error counts where no better one stands."""
    known = [e for e in events if e.row.tier < VAGUE_TIER]
    return known or events
