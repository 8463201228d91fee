"""How a log ends where no error decides: well, in the middle, or by a hand that it does not show."""

from __future__ import annotations

from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.lines import LogLine
from attr_actors.core.rules import clearing, selection
from attr_actors.core.signatures.library import Role
from attr_actors.core.verdicts import Verdict, verdict_of
from attr_actors.models import Action, Category

FAILED_EXIT = frozenset({"launch_return", "elastic_summary", "srun_exit"})
OF_A_SCHEDULER = frozenset({"sigterm", "slurm_step_busy"})
STEPS_AFTER_DONE_MAX = 3
RIGHT_BEFORE_LINES = 10
ECHO_DONE = "done_said"
HEADER_ROW = "traceback"


def success_ends_it(evidence: Evidence) -> Verdict | None:
    """What comes after a run said that it is finished is teardown, and what came before it was survived."""
    strong = [d for d in evidence.dones if not _is_echo(d, evidence)]
    done = (strong or evidence.dones)[-1] if evidence.dones else None
    if done is None:
        return None
    weak = not strong
    for event in selection.primaries(evidence):
        after = event.index > done.index
        if after and not _is_teardown_noise(event):
            return None
        if weak and not after and _ended_a_program(event, done, evidence):
            return None  # A shell script, a tracker or a hook says "done" also after its program died.
    if any(head.index > done.index for head in _open_heads(evidence)):
        return None
    if weak and any(e.row.id in FAILED_EXIT and not clearing.progress_clears(e, evidence) for e in evidence.of(Role.TEARDOWN)):
        return None
    if any(e.index > done.index for e in evidence.events if e.role is Role.SCHEDULER or e.row.id == selection.KILL):
        return None
    if sum(s.line.index > done.index for s in evidence.steps) > STEPS_AFTER_DONE_MAX:
        return None  # Only a part of the run was finished.
    return Verdict(
        "success_ends_it", Action.CONTINUE, Category.NONE, "none", "The run finished.", [done], None, None, [], 0.9 if strong else 0.7
    )


def _ended_a_program(event: Event, done: LogLine, evidence: Evidence) -> bool:
    """Tell whether an exception before the end is the reason for it: nobody caught it, or it stands right before the end."""
    if clearing.run_went_on(event, evidence):
        return False
    is_near = event.trace is not None and done.number - event.line.number <= RIGHT_BEFORE_LINES
    return event.uncaught or (is_near and not clearing.progress_clears(event, evidence))


def _is_echo(line: LogLine, evidence: Evidence) -> bool:
    return all(evidence.rows[r].id == ECHO_DONE for r in line.piece.rows if evidence.rows[r].role is Role.DONE)


def _is_teardown_noise(event: Event) -> bool:
    """Tell whether an event behind the end is a destructor's: ignored by Python, or an exception of which only the type is known."""
    return event.warned or (event.is_generic and not event.uncaught)


def teardown_only(evidence: Evidence) -> Verdict | None:
    """Something ended the processes and the log does not say what: try again."""
    events = [e for e in evidence.of(Role.TEARDOWN) if not clearing.progress_clears(e, evidence)]
    if not events:
        return None
    event = events[0]
    verdict = verdict_of("teardown_only", event, "The processes were ended from outside; the log does not say why.", 0.3)
    verdict.action = Action.RESTART
    verdict.category = Category.SCHEDULER if event.row.id in OF_A_SCHEDULER else Category.UNKNOWN
    return verdict


def traceback_without_end(evidence: Evidence) -> Verdict | None:
    """A traceback whose last line is missing or of no known shape still ended something, unless the run went on behind it."""
    heads = _open_heads(evidence)
    if not heads or evidence.dones or clearing.ordinary_lines_after(heads[-1], evidence) >= clearing.SURVIVED_LINES:
        return None
    if any(s.line.index > heads[-1].index for s in evidence.steps):
        return None
    sentence = "A traceback ends the log without saying what was raised."
    return Verdict("traceback_without_end", Action.RESTART, Category.UNKNOWN, "unknown", sentence, [heads[-1]], None, None, [], 0.3)


def _open_heads(evidence: Evidence) -> list[LogLine]:
    """Return the heads of tracebacks whose exception is not there."""
    closed = {t.header.index for t in evidence.tracebacks}
    own = evidence.lines[evidence.first : evidence.last]
    return [line for line in own if line.index not in closed and any(evidence.rows[r].id == HEADER_ROW for r in line.piece.rows)]


def nothing_failed(evidence: Evidence) -> Verdict:
    """No error stands: the run finished, or it is still running, or the log was cut."""
    moved = bool(evidence.steps)
    sentence = "No failure was found; the log ends while the run was working." if moved else "No failure was found."
    return Verdict("nothing_failed", Action.CONTINUE, Category.NONE, "none", sentence, [], None, None, [], 0.6 if moved else 0.5)
