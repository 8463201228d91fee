"""Broken collectives and lost processes. Hold in mind: these are consequences, unless nothing else failed on any rank."""

from __future__ import annotations

from attr_actors.core import nccl
from attr_actors.core.events import Event
from attr_actors.core.evidence import Evidence
from attr_actors.core.rules import clearing
from attr_actors.core.signatures.library import Role
from attr_actors.core.verdicts import Verdict, verdict_of
from attr_actors.models import Action, Category

AFTERMATH_LINES_MAX = 120
"""A job whose collective broke prints stacks for a while; after more ordinary lines than this it went on."""
COMMUNICATION = "communication"


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
    found = [e for e in evidence.of(Role.CASCADE) if not clearing.progress_clears(e, evidence) and not e.warned]
    return [e for e in found if clearing.ordinary_lines_after(e.line, evidence) < AFTERMATH_LINES_MAX]


def helper_process_lost(evidence: Evidence) -> Verdict | None:
    """A worker, an actor or a child is gone and nothing says why: not the network, and no proof of a lasting fault."""
    events = _standing_cascades(evidence)
    if not events:
        return None
    event = min(events, key=lambda e: (e.row.tier, e.index))
    return verdict_of("helper_process_lost", event, f"A process of the job was lost: {event.row.why}", 0.4)
