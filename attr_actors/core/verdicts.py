"""A verdict: what one ordering rule decided, before it is written out as an attribution."""

from __future__ import annotations

from dataclasses import dataclass, field

from attr_actors.core.events import Event
from attr_actors.core.lines import LogLine
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
