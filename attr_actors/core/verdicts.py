"""A verdict: what one ordering rule decided, before it is written out as an attribution."""

from __future__ import annotations

from dataclasses import dataclass, field

from attr_actors.core.events import Event, as_action
from attr_actors.core.lines import LogLine
from attr_actors.core.signatures.library import Role
from attr_actors.models import Action, Category, Suspect


@dataclass(eq=False)
class Verdict:
    """The decision of one rule over one attempt. ``roots`` are the lines that prove it, best first."""

    rule: str
    action: Action
    category: Category
    owner: str
    sentence: str
    roots: list[LogLine] = field(default_factory=list)
    event: Event | None = None
    signature: str | None = None
    suspects: list[Suspect] = field(default_factory=list)
    confidence: float = 0.5


def verdict_of(rule: str, event: Event, sentence: str, confidence: float) -> Verdict:
    """Return the verdict that an event is the root, with the event's own category and action."""
    action = as_action(event.action)
    suspects = [Suspect(kind="node", name=event.line.node, reason=event.row.why)] if event.line.node and event.role is Role.HARDWARE else []
    return Verdict(
        rule, action, event.category, event.owner, sentence, [event.line, *event.chain], event, event.row.id, suspects, confidence
    )


_FAILED = {
    Category.USER_CODE: "The program raised an error",
    Category.CONFIG: "The configuration does not work",
    Category.DATA: "Input data is missing or cannot be read",
    Category.CUDA_OOM: "The accelerator ran out of memory",
    Category.HOST_OOM: "The host ran out of memory",
    Category.GPU_HARDWARE: "A GPU cannot be used",
    Category.CUDA_RUNTIME: "A CUDA call failed",
    Category.NETWORK_NCCL: "Communication failed",
    Category.STORAGE: "Storage refused to read or write",
    Category.CHECKPOINT: "A checkpoint could not be loaded or saved",
    Category.SCHEDULER: "The scheduler or a person ended the run",
    Category.DEPENDENCY_ENV: "The software environment does not fit",
    Category.NUMERICAL: "The computation produced values that are no numbers",
    Category.EXTERNAL_SERVICE: "A service outside the cluster failed",
    Category.FRAMEWORK_BUG: "A library crashed or failed inside",
}


def sentence_of(event: Event) -> str:
    """Return one sentence that names what failed, where, and in whose words."""
    where = f" on rank {event.line.rank}" if event.line.rank is not None else ""
    return f"{_FAILED.get(event.category, 'An error ended the run')}{where}: {event.line.body.strip()[:300]}"
