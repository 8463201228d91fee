"""People, terminals and schedulers that end healthy runs. Hold in mind: an error that came first makes them consequences."""

from __future__ import annotations

from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.progress import step_time
from attr_actors.core.rules import clearing, selection
from attr_actors.core.signatures.library import Role
from attr_actors.core.verdicts import Verdict, verdict_of

TIME_LIMITS = frozenset({"slurm_time_limit", "batch_time_limit", "k8s_deadline"})
CANCELLATIONS = frozenset({"slurm_cancelled", "batch_cancelled"})
OWN_RULE = frozenset({"user_interrupt", "sighup", "k8s_unschedulable"}) | CANCELLATIONS
SILENCE_S_MIN = 600.0
SILENT_STEPS = 10


def person_stopped_it(evidence: Evidence) -> Verdict | None:
    """An interrupt floods the log with tracebacks of its own; it is a person's decision unless an error came first."""
    if any(e.row.id not in OWN_RULE and not clearing.progress_clears(e, evidence) for e in evidence.of(Role.SCHEDULER)):
        return None  # Schedulers interrupt what they end: a limit or a preemption explains the interrupt.
    return _scheduler_fact(evidence, "person_stopped_it", {"user_interrupt"}, "A person interrupted the run.", 0.85)


def terminal_went_away(evidence: Evidence) -> Verdict | None:
    """A hangup ends healthy processes: the job is not finished and nothing is wrong with it."""
    return _scheduler_fact(
        evidence, "terminal_went_away", {"sighup"}, "The terminal or session was closed (SIGHUP) and took the run with it.", 0.85
    )


def scheduler_ended_it(evidence: Evidence) -> Verdict | None:
    """A time limit, a preemption or an eviction before any primary error makes all that follows a consequence."""
    return _ended_by(evidence, {e.row.id for e in evidence.of(Role.SCHEDULER) if e.row.tier <= clearing.CERTAIN_TIER} - OWN_RULE)


def warning_came_before_the_end(evidence: Evidence) -> Verdict | None:
    """A signal that warns of the end is the reason where nothing else failed; a program may also send itself one."""
    return _ended_by(evidence, {e.row.id for e in evidence.of(Role.SCHEDULER)} - OWN_RULE)


def _ended_by(evidence: Evidence, names: set[str]) -> Verdict | None:
    verdict = _scheduler_fact(evidence, "scheduler_ended_it", names, "The scheduler ended the run.", 0.9)
    if verdict is not None and verdict.event is not None and (silence := _silence_before(verdict.event, evidence)) is not None:
        verdict.rule, verdict.confidence = "silence_before_the_limit", 0.6
        verdict.sentence = f"The run hung: it wrote nothing for {silence / 60:.0f} minutes, and the time limit is only how it ended."
    return verdict


def _silence_before(fact: Event, evidence: Evidence) -> float | None:
    """Return for how many seconds the log was silent before a time limit, if that is far longer than a step."""
    if fact.row.id not in TIME_LIMITS or fact.line.at is None:
        return None
    earlier = [line.at for line in evidence.lines[max(evidence.first, fact.index - 50) : fact.index] if line.at is not None]
    silence = fact.line.at - max(earlier) if earlier else 0.0
    return silence if silence >= max(SILENCE_S_MIN, SILENT_STEPS * (step_time(evidence.steps) or 0.0)) else None


def _scheduler_fact(evidence: Evidence, rule: str, names: set[str], sentence: str, confidence: float) -> Verdict | None:
    facts = [e for e in evidence.of(Role.SCHEDULER) if e.row.id in names and not clearing.progress_clears(e, evidence)]
    if not facts:
        return None
    earlier = [e for e in selection.standing_primaries(evidence) if e.index < facts[0].index]
    if earlier:
        return None
    return verdict_of(rule, facts[0], f"{sentence} {facts[0].row.why}", confidence)


def cancelled(evidence: Evidence) -> Verdict | None:
    """CANCELLED without a reason is a person's scancel, if no error made srun kill the step."""
    facts = [e for e in evidence.of(Role.SCHEDULER) if e.row.id in CANCELLATIONS]
    return verdict_of("cancelled", facts[0], "The job was cancelled.", 0.7) if facts else None


def kill_needs_an_explanation(evidence: Evidence) -> Verdict | None:
    """SIGKILL says nothing of why: the memory killer is likely, but only a memory fact proves it. A cancelled step is killed, too."""
    kills = [e for e in evidence.events if e.row.id == selection.KILL and not clearing.progress_clears(e, evidence)]
    if not kills or any(e.row.id in CANCELLATIONS and e.index < kills[0].index for e in evidence.of(Role.SCHEDULER)):
        return None
    return verdict_of(
        "kill_needs_an_explanation",
        kills[0],
        "The process was killed with SIGKILL; host memory is likely, but the log does not prove it.",
        0.4,
    )
