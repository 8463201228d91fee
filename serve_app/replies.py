"""Analysis -> the bodies of GET /logs."""

from __future__ import annotations

from typing import Literal

from attr_actors.core.rendering import render_auto_resume, render_cycle_text, render_explanation, render_issues, saved_checkpoint
from attr_actors.core.splitlog import select_cycles
from attr_actors.errors import AttrError
from attr_actors.models import Action, Analysis, Attribution, JobView, Peek
from serve_app.bodies import CycleInfo, Recommendation, ResultBody, ResultReply

Word = Literal["STOP", "RESTART", "CONTINUE", "UNKNOWN", "TIMEOUT"]
WORDS: dict[Action, Word] = {
    Action.STOP: "STOP",
    Action.RESTART: "RESTART",
    Action.EXCLUDE: "RESTART",
    Action.CONTINUE: "CONTINUE",
    Action.UNKNOWN: "UNKNOWN",
}


def completed_reply(analysis: Analysis, wl_restart: int | None) -> ResultReply:
    """Answer with all cycles, or with one. Raises InvalidParameter for a cycle that the file does not have."""
    count = len(analysis.cycles)
    cycles = [analysis.cycles[i] for i in select_cycles(count, wl_restart)]
    return ResultReply(
        result=ResultBody(state="complete", result_id=analysis.result_id, result=[render_item(c) for c in cycles]),
        status="completed",
        wl_restart=wl_restart or 0,
        wl_restart_count=count,
        recommendation=recommend(cycles[-1]),
        attribution=cycles[-1],
        degraded=cycles[-1].degraded,
        joined=analysis.joined,
        basis=None if analysis.degraded else analysis,  # A degraded answer is refreshed by a later request.
    )


def unfinished_reply(peek: Peek) -> ResultReply:
    """Answer a GET that does not wait, before the analysis is complete."""
    state: Literal["pending", "in_flight"] = "in_flight" if peek.status == "in_flight" else "pending"
    return ResultReply(
        result=ResultBody(state=state),
        status=state,
        candidate_recommendation=recommend(peek.candidate) if peek.candidate else None,
    )


def timeout_reply(peek: Peek, wl_restart: int | None, limit_s: float) -> ResultReply:
    """Answer a GET whose wait ended before the analysis did; the rules' answer is served if it exists."""
    if peek.status == "completed" and peek.analysis:
        return completed_reply(peek.analysis, wl_restart)
    error = f"the analysis took longer than {limit_s:g} s; it goes on, ask again later"
    late = Recommendation(action="TIMEOUT", source="rules", reason=error)
    return ResultReply(
        result=ResultBody(state="timeout", error=error),
        status="in_flight",
        recommendation=recommend(peek.candidate) if peek.candidate else late,
        attribution=peek.candidate,
    )


def error_reply(exc: AttrError) -> ResultReply:
    """Answer for one of several files that has no answer of its own."""
    return ResultReply(result=ResultBody(state="error", error=exc.message), status="completed")


def splitlog_reply(reply: ResultReply, job: JobView, log_file: str) -> ResultReply:
    """Say of which file of which job an answer is."""
    return reply.model_copy(update={"mode": job.mode, "sched_restarts": job.sched_restarts, "log_file": log_file})


def render_item(cycle: Attribution) -> tuple[str, CycleInfo]:
    """Return one ``[text, info]`` pair of ``result.result``."""
    info = CycleInfo(
        auto_resume=render_auto_resume(cycle.action),
        auto_resume_explanation=render_explanation(cycle),
        attribution=render_issues(cycle),
        checkpoint_saved=saved_checkpoint(cycle),
        action=cycle.action.value,
        category=cycle.category.value,
        signature=cycle.signature,
        confidence=cycle.confidence,
    )
    return render_cycle_text(cycle), info


def recommend(cycle: Attribution) -> Recommendation:
    """Return the decision in the predecessor's words."""
    return Recommendation(action=WORDS[cycle.action], source=cycle.source, reason=cycle.root_cause, exclude_nodes=list(cycle.exclude_nodes))
