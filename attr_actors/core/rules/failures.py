"""The ordering rules, in the order in which they are asked. Hold in mind: the first that answers decides.

Each takes the evidence and returns a verdict or None; its docstring is its reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attr_actors.core import nccl
from attr_actors.core.events import Event, as_action
from attr_actors.core.evidence import Evidence
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import nan_until_the_end
from attr_actors.core.rules.clearing import ordinary_lines_after, progress_clears, run_went_on
from attr_actors.core.signatures.library import Role
from attr_actors.core.verdicts import Verdict
from attr_actors.models import Action, Category, Suspect

Rule = Callable[[Evidence], Verdict | None]
FIRST_FAILURE_RANK = re.compile(r"^\s*rank\s*: (\d+) \(local_rank: \d+\)")
SPECIFIC_WITHIN_LINES = 15
VAGUE_TIER = 8
KILL = "bare_killed"
FAILED_EXIT = frozenset({"launch_return", "elastic_summary", "srun_exit"})
STEPS_AFTER_DONE_MAX = 3
SHELL = frozenset({"command_missing", "script_missing"})
AFTERMATH_LINES_MAX = 120
"""A job whose collective broke prints stacks for a while; after more ordinary lines than this it went on."""
COMMUNICATION = "communication"
TELLING_TIER_MAX = 3
TELLING_WITHIN_LINES = 400
LATE_HARDWARE_S = 600.0
ECHO_DONE = "done_said"


def verdict_of(rule: str, event: Event, sentence: str, confidence: float) -> Verdict:
    """Return the verdict that an event is the root, with the event's own category and action."""
    action = as_action(event.action)
    suspects = [Suspect(kind="node", name=event.line.node, reason=event.row.why)] if event.line.node and event.role is Role.HARDWARE else []
    return Verdict(
        rule, action, event.category, event.owner, sentence, [event.line, *event.chain], event, event.row.id, suspects, confidence
    )


# ---- facts that win wherever they stand ----------------------------------------------------------------------------


def hardware_fact_wins(evidence: Evidence) -> Verdict | None:
    """Broken hardware explains every later message, and the kernel often prints it last; the earliest of several wins."""
    facts = [e for e in evidence.of(Role.HARDWARE) if not progress_clears(e, evidence) and not _too_late(e, evidence)]
    if not facts:
        return None
    event = facts[0]
    return verdict_of("hardware_fact_wins", event, f"Hardware failed: {event.row.why}", 0.95)


def _too_late(event: Event, evidence: Evidence) -> bool:
    """A kernel line more than ten minutes after the last error belongs to another story."""
    before = [e.line.at for e in evidence.events if e.role is not Role.HARDWARE and e.line.at is not None]
    return bool(before) and event.line.at is not None and event.line.at - max(before) > LATE_HARDWARE_S


def node_failure_wins(evidence: Evidence) -> Verdict | None:
    """The scheduler's word that a node died is final: all other messages are fallout."""
    facts = [e for e in evidence.of(Role.SCHEDULER) if e.row.tier == 1 and not progress_clears(e, evidence)]
    return verdict_of("node_failure_wins", facts[0], f"A node was lost: {facts[0].row.why}", 0.95) if facts else None


# ---- the run ended well --------------------------------------------------------------------------------------------


def success_ends_it(evidence: Evidence) -> Verdict | None:
    """What comes after a run said that it is finished is teardown, and what came before it was survived."""
    strong = [d for d in evidence.dones if not _is_echo(d, evidence)]
    done = (strong or evidence.dones)[-1] if evidence.dones else None
    if done is None:
        return None
    weak = not strong
    for event in primaries(evidence):
        after = event.index > done.index
        if after and not _is_teardown_noise(event):
            return None
        if weak and not after and event.uncaught and not run_went_on(event, evidence):
            return None  # A shell script says "done" also after its program died.
    if weak and any(e.row.id in FAILED_EXIT and not progress_clears(e, evidence) for e in evidence.of(Role.TEARDOWN)):
        return None
    if any(e.index > done.index for e in evidence.events if e.role is Role.SCHEDULER or e.row.id == KILL):
        return None
    if sum(s.line.index > done.index for s in evidence.steps) > STEPS_AFTER_DONE_MAX:
        return None  # Only a part of the run was finished.
    return Verdict(
        "success_ends_it", Action.CONTINUE, Category.NONE, "none", "The run finished.", [done], None, None, [], 0.9 if strong else 0.7
    )


def _is_echo(line: LogLine, evidence: Evidence) -> bool:
    return all(evidence.rows[r].id == ECHO_DONE for r in line.piece.rows if evidence.rows[r].role is Role.DONE)


def _is_teardown_noise(event: Event) -> bool:
    return event.warned or (event.trace is not None and event.trace.ignored)


# ---- people and terminals ------------------------------------------------------------------------------------------


def person_stopped_it(evidence: Evidence) -> Verdict | None:
    """An interrupt floods the log with tracebacks of its own; it is a person's decision unless an error came first."""
    return _scheduler_fact(evidence, "person_stopped_it", {"user_interrupt"}, "A person interrupted the run.", 0.85)


def terminal_went_away(evidence: Evidence) -> Verdict | None:
    """A hangup ends healthy processes: the job is not finished and nothing is wrong with it."""
    return _scheduler_fact(
        evidence, "terminal_went_away", {"sighup"}, "The terminal or session was closed (SIGHUP) and took the run with it.", 0.85
    )


def scheduler_ended_it(evidence: Evidence) -> Verdict | None:
    """A time limit, a preemption or a requeue is the reason only where no primary error precedes it."""
    skip = {"user_interrupt", "sighup", "slurm_cancelled", "k8s_unschedulable"}
    names = {e.row.id for e in evidence.of(Role.SCHEDULER)} - skip
    return _scheduler_fact(evidence, "scheduler_ended_it", names, "The scheduler ended the run.", 0.9)


def _scheduler_fact(evidence: Evidence, rule: str, names: set[str], sentence: str, confidence: float) -> Verdict | None:
    facts = [e for e in evidence.of(Role.SCHEDULER) if e.row.id in names and not progress_clears(e, evidence)]
    if not facts:
        return None
    earlier = [e for e in standing_primaries(evidence) if e.index < facts[0].index]
    if earlier:
        return None
    return verdict_of(rule, facts[0], f"{sentence} {facts[0].row.why}", confidence)


# ---- the first error -----------------------------------------------------------------------------------------------


def primaries(evidence: Evidence) -> list[Event]:
    """Return the firm events that can be a root, in the file's order."""
    return [e for e in evidence.of(Role.PRIMARY, Role.CONFIRMATION, Role.GENERIC) if e.firm and not e.warned and e.row.id != KILL]


def standing_primaries(evidence: Evidence) -> list[Event]:
    """Return the primaries that the run did not get over; where it got over all, the last burst still counts."""
    unrecovered = [e for e in primaries(evidence) if not progress_clears(e, evidence)]
    fatal = _known_before_vague(_program_before_shell([e for e in unrecovered if not run_went_on(e, evidence)]))
    return fatal or [e for e in unrecovered if e.trace is not None and not evidence.dones]


def _program_before_shell(events: list[Event]) -> list[Event]:
    """A shell goes on after a command that it did not find; what a program raised later is what ended the run."""
    if any(e.trace is not None for e in events):
        return [e for e in events if e.row.id not in SHELL]
    return events


def _known_before_vague(events: list[Event]) -> list[Event]:
    """A line that only calls itself an error counts where no better one stands."""
    known = [e for e in events if e.row.tier < VAGUE_TIER]
    return known or events


def first_error_is_the_root(evidence: Evidence) -> Verdict | None:
    """Of all ranks' errors the first is the cause; communication errors are consequences and wait for their own rule."""
    candidates = standing_primaries(evidence)
    if not candidates:
        return None
    named = _first_failed_rank(evidence)
    first = next((e for e in candidates if named is not None and e.line.rank == named and e.trace is not None), candidates[0])
    event = _more_specific(first, candidates)
    verdict = verdict_of("first_error_is_the_root", event, _sentence(event), 0.6 if event.is_generic else 0.85)
    verdict.roots = [_first_telling(event, evidence), *verdict.roots]
    return verdict


def _first_failed_rank(evidence: Evidence) -> int | None:
    """Read torchelastic's pointer to the rank whose failure it observed first."""
    seen = False
    for line in evidence.lines[evidence.first : evidence.last]:
        if "Root Cause (first observed failure)" in line.body:
            seen = True
        elif seen and (m := FIRST_FAILURE_RANK.match(line.body)):
            return int(m[1])
    return None


def _more_specific(first: Event, candidates: list[Event]) -> Event:
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


def _first_telling(event: Event, evidence: Evidence) -> LogLine:
    """Return the first line of the event's row shortly before it: libraries log the fact before Python raises it."""
    if event.row.tier > TELLING_TIER_MAX:
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


def _sentence(event: Event) -> str:
    where = f" on rank {event.line.rank}" if event.line.rank is not None else ""
    return f"{event.category.value} failure{where}: {event.line.body.strip()[:300]}"


# ---- without a primary error ---------------------------------------------------------------------------------------


def loss_is_no_number(evidence: Evidence) -> Verdict | None:
    """A loss that stays NaN to the end makes the run useless, even where nothing raises."""
    events = [e for e in evidence.events if e.row.id == "nan_loss" and not progress_clears(e, evidence)]
    if not events or not nan_until_the_end(evidence.steps):
        return None
    return verdict_of("loss_is_no_number", events[0], "The loss became NaN or infinite and stayed so.", 0.7)


def kill_needs_an_explanation(evidence: Evidence) -> Verdict | None:
    """SIGKILL says nothing of why: the memory killer is likely, but only a memory fact proves it."""
    kills = [e for e in evidence.events if e.row.id == KILL and not progress_clears(e, evidence)]
    if not kills:
        return None
    return verdict_of(
        "kill_needs_an_explanation",
        kills[0],
        "The process was killed with SIGKILL; host memory is likely, but the log does not prove it.",
        0.4,
    )


def collective_failed(evidence: Evidence) -> Verdict | None:
    """Communication errors are the root only where nothing else failed on any rank; then name who did not join."""
    events = [e for e in _standing_cascades(evidence) if e.category is Category.NETWORK_NCCL or e.row.family == COMMUNICATION]
    if not events:
        return None
    event = min(events, key=lambda e: (e.row.tier, e.index))
    forensics = nccl.read_forensics(evidence)
    verdict = verdict_of("collective_failed", event, f"Communication failed: {event.row.why}", 0.6)
    if event.category is Category.UNKNOWN:
        verdict.category = Category.NETWORK_NCCL
    verdict.suspects += forensics.suspects
    if forensics.sentence:
        verdict.sentence = forensics.sentence
    if forensics.is_mismatch:
        verdict.action, verdict.category, verdict.owner = Action.STOP, Category.USER_CODE, "user code"
    return verdict


def _standing_cascades(evidence: Evidence) -> list[Event]:
    found = [e for e in evidence.of(Role.CASCADE) if not progress_clears(e, evidence) and not e.warned]
    return [e for e in found if ordinary_lines_after(e.line, evidence) < AFTERMATH_LINES_MAX]


def helper_process_lost(evidence: Evidence) -> Verdict | None:
    """A worker, an actor or a child is gone and nothing says why: not the network, and no proof of a lasting fault."""
    events = _standing_cascades(evidence)
    if not events:
        return None
    event = min(events, key=lambda e: (e.row.tier, e.index))
    return verdict_of("helper_process_lost", event, f"A process of the job was lost: {event.row.why}", 0.4)


def cancelled(evidence: Evidence) -> Verdict | None:
    """CANCELLED without a reason is a person's scancel, if no error made srun kill the step."""
    facts = [e for e in evidence.of(Role.SCHEDULER) if e.row.id == "slurm_cancelled"]
    return verdict_of("cancelled", facts[0], "The job was cancelled.", 0.7) if facts else None


def teardown_only(evidence: Evidence) -> Verdict | None:
    """Something ended the processes and the log does not say what: try again."""
    events = [e for e in evidence.of(Role.TEARDOWN) if not progress_clears(e, evidence)]
    if not events:
        return None
    event = events[0]
    verdict = verdict_of("teardown_only", event, "The processes were ended from outside; the log does not say why.", 0.3)
    verdict.action = Action.RESTART
    verdict.category = Category.SCHEDULER if event.row.id == "sigterm" else Category.UNKNOWN
    return verdict


def weak_error(evidence: Evidence) -> Verdict | None:
    """A line that only mentions an error counts where the log ends right behind it."""
    events = [e for e in evidence.of(Role.PRIMARY) if not e.firm and not e.warned and e.row.tier <= 3 and not progress_clears(e, evidence)]
    last = [e for e in events if ordinary_lines_after(e.line, evidence) <= 3]
    return verdict_of("weak_error", last[0], _sentence(last[0]), 0.4) if last else None


def nothing_failed(evidence: Evidence) -> Verdict | None:
    """No error stands: the run finished, or it is still running, or the log was cut."""
    moved = bool(evidence.steps)
    sentence = "No failure was found; the log ends while the run was working." if moved else "No failure was found."
    return Verdict("nothing_failed", Action.CONTINUE, Category.NONE, "none", sentence, [], None, None, [], 0.6 if moved else 0.5)


RULES: tuple[Rule, ...] = (
    hardware_fact_wins,
    node_failure_wins,
    success_ends_it,
    person_stopped_it,
    terminal_went_away,
    first_error_is_the_root,
    loss_is_no_number,
    scheduler_ended_it,
    kill_needs_an_explanation,
    collective_failed,
    helper_process_lost,
    cancelled,
    weak_error,
    teardown_only,
    nothing_failed,
)
