"""What a single line proves by the signatures: the engine's own word, against which a model's claim is held."""

from __future__ import annotations

from collections.abc import Sequence

from attr_actors.core.grounding import Proof, Prove
from attr_actors.core.redaction import ANSI
from attr_actors.core.signatures.library import Role, Signature
from attr_actors.models import Action

ROOTS = frozenset({Role.HARDWARE, Role.SCHEDULER, Role.PRIMARY, Role.GENERIC})
CONSEQUENCES = frozenset({Role.CASCADE, Role.TEARDOWN, Role.NOISE, Role.TRACEBACK})


def prover(rows: Sequence[Signature]) -> Prove:
    """Return the look-up of a line among the rows: the most specific row that can be a root, unless the line is a consequence."""
    roots = sorted((row for row in rows if row.role in ROOTS), key=lambda row: row.tier)
    consequences = [row for row in rows if row.role in CONSEQUENCES]

    def prove(text: str) -> Proof | None:
        plain = ANSI.sub("", text)
        if any(row.matches(plain) for row in consequences):
            return None
        row = next((row for row in roots if row.matches(plain)), None)
        if row is None:
            return None
        # CONFIRM means one restart first, which is what a second opinion can ask for.
        action = Action(row.action) if row.action in set(Action) else Action.RESTART
        return Proof(row.id, action, row.category, row.owner)

    return prove
