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


def sentence_of(event: Event) -> str:
    """Return one sentence that names what failed, where, and in whose words."""
    where = f" on rank {event.line.rank}" if event.line.rank is not None else ""
    return f"{event.category.value} failure{where}: {event.line.body.strip()[:300]}"
