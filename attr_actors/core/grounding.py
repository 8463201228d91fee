"""What is believed of a model's reply: citations are checked against the file, and claims against what is cited.

Hold in mind: log text reaches the model, so a reply may say whatever the log's author wanted. Everything that a reply
can change is therefore bound to lines that the file holds and that the engine itself recognises: an action changes only
towards what a cited line proves by its signature, and only where the rules are not sure. A false STOP idles a cluster
until a person looks, so STOP needs the most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from attr_actors.core.prompting import Prompt, clean, display
from attr_actors.core.redaction import Redactor
from attr_actors.core.replies import CITATIONS_MAX, Citation, Reply
from attr_actors.models import Action, Attribution, Category, Line, ModelOpinion

SURE = 0.8
"""Rules with at least this confidence keep their action, category and root lines; the model may only word the cause."""


def wants_opinion(answer: Attribution) -> bool:
    """Tell whether a model's opinion on an answer is still wanted: it has none, and something may have failed."""
    return answer.opinion is None and not (answer.action is Action.CONTINUE and answer.confidence >= SURE)


QUOTE_MIN = 6
"""A shorter quote occurs by chance."""

RELOCATE_MIN = 16
"""A quote this long identifies a shown line even where the model miscounted the number."""

CAUSE_CHARS_MAX = 600

OWNERS: dict[Category, str] = {
    Category.USER_CODE: "user code",
    Category.CONFIG: "user code",
    Category.DATA: "user code",
    Category.CUDA_OOM: "user code",
    Category.HOST_OOM: "user code",
    Category.GPU_HARDWARE: "infrastructure",
    Category.CUDA_RUNTIME: "infrastructure",
    Category.NETWORK_NCCL: "network",
    Category.STORAGE: "storage",
    Category.CHECKPOINT: "storage",
    Category.SCHEDULER: "scheduler",
    Category.DEPENDENCY_ENV: "user code",
    Category.NUMERICAL: "user code",
    Category.EXTERNAL_SERVICE: "external",
    Category.FRAMEWORK_BUG: "user code",
}
"""Who acts on a category where no signature names the owner."""


class Proof(NamedTuple):
    """What the engine's signatures say of a single line that can be a root cause."""

    signature: str
    action: Action
    category: Category
    owner: str


Prove = Callable[[str], Proof | None]
"""Looks a line's text up among the signatures; None unless one with a root role matches."""


class Grounded(NamedTuple):
    """The citations that the file confirms, without repeats, and the number of those that it does not."""

    lines: tuple[Line, ...]
    dropped: int


def locate(reply: Reply, prompt: Prompt, redactor: Redactor) -> tuple[int | None, ...]:
    """Return for each citation the number of the line that must hold its quote; None where there cannot be one.

    A long quote identifies a shown line even under a wrong number.
    """
    seen = {number: _normal(redactor.comparable(line.text)) for number, line in prompt.shown.items()}
    return tuple(_locate(citation, _normal(redactor.comparable(citation.quote)), seen) for citation in reply.citations[:CITATIONS_MAX])


def _locate(citation: Citation, quote: str, seen: Mapping[int, str]) -> int | None:
    if len(quote) < QUOTE_MIN:
        return None
    if quote in seen.get(citation.line, ""):
        return citation.line
    holders = [number for number, text in seen.items() if quote in text] if len(quote) >= RELOCATE_MIN else []
    return min(holders) if holders else citation.line if citation.line not in seen else None


def ground(reply: Reply, places: Iterable[int | None], read: Mapping[int, Line], prompt: Prompt, redactor: Redactor) -> Grounded:
    """Check citations against the lines that were read from the file at their places."""
    lines: dict[int, Line] = {}
    dropped = 0
    for citation, place in zip(reply.citations, places, strict=False):
        line = read.get(place) if place is not None else None
        if line is None or _normal(redactor.comparable(citation.quote)) not in _normal(redactor.comparable(line.text)):
            dropped += 1
            continue
        # A line that was shown is cited with the rank and node that the engine knows.
        lines.setdefault(line.line_number, prompt.shown.get(line.line_number, line))
    return Grounded(tuple(lines.values()), dropped + max(0, len(reply.citations) - CITATIONS_MAX))


def _normal(text: str) -> str:
    """Fold what models change when they quote: space, case, ellipses and quotation marks around it."""
    return re.sub(r"\s+", " ", clean(text)).strip(" .…\"'`|").casefold()


def weigh(
    rules: Attribution, reply: Reply, grounded: Grounded, prompt: Prompt, prove: Prove, redactor: Redactor, told: ModelOpinion
) -> Attribution:
    """Return the answer after a second opinion; the opinion is kept beside it whatever becomes of it.

    ``told`` carries the model's name, tokens and time; the rest of the opinion is filled in here.
    """
    cause = _plain(redactor.restore(reply.root_cause), (*prompt.shown.values(), *grounded.lines))
    agrees = reply.action is rules.action and reply.category is rules.category
    opinion = told.model_copy(
        update={
            "action": reply.action,
            "category": reply.category,
            "root_cause": cause,
            "root_lines": grounded.lines,
            "agrees": agrees,
            "dropped_citations": grounded.dropped,
        }
    )
    heard = rules.model_copy(update={"opinion": opinion, "rules_action": rules.action, "degraded": None})
    if not grounded.lines or not cause:
        return heard
    if agrees:
        return heard.model_copy(update={"source": "model", "root_cause": cause, "root_lines": _joined(rules.root_lines, grounded.lines)})
    if rules.confidence >= SURE:
        return heard
    if reply.action is rules.action:
        return _recategorised(heard, reply.category, cause, grounded.lines)
    return _redecided(heard, reply, cause, grounded.lines, prove, redactor)


def _recategorised(heard: Attribution, category: Category, cause: str, lines: tuple[Line, ...]) -> Attribution:
    if category in {Category.UNKNOWN, Category.NONE}:
        return heard
    return heard.model_copy(
        update={
            "source": "model",
            "category": category,
            "owner": OWNERS.get(category, "unknown"),
            "signature": None,
            "root_cause": cause,
            "root_lines": _joined(lines, heard.root_lines),
        }
    )


def _redecided(heard: Attribution, reply: Reply, cause: str, lines: tuple[Line, ...], prove: Prove, redactor: Redactor) -> Attribution:
    """Change the action if a cited line proves it by its signature, and nothing else forbids it."""
    found = next(((line, proof) for line in lines if (proof := prove(line.text)) and _supports(proof, reply.action)), None)
    if found is None or not _permitted(heard, reply.action):
        return heard
    line, proof = found
    nodes = _named_nodes(reply, line, redactor) if reply.action is Action.EXCLUDE else ()
    if reply.action is Action.EXCLUDE and not nodes:
        return heard
    return heard.model_copy(
        update={
            "source": "model",
            "action": reply.action,
            "category": proof.category,
            "owner": proof.owner,
            "signature": proof.signature,
            "root_cause": cause,
            "root_lines": _joined((line, *lines), heard.root_lines),
            "exclude_nodes": nodes,
        }
    )


def _supports(proof: Proof, action: Action) -> bool:
    if action is Action.RESTART:
        return proof.action in {Action.RESTART, Action.EXCLUDE}
    return proof.action is action


def _permitted(rules: Attribution, action: Action) -> bool:
    if action in {Action.CONTINUE, Action.UNKNOWN}:
        return False
    return action is not Action.STOP or rules.coverage == "full"


def _named_nodes(reply: Reply, line: Line, redactor: Redactor) -> tuple[str, ...]:
    """Return the nodes that the reply names and the proving line shows."""
    wanted = [redactor.restore(node).strip() for node in reply.nodes]
    return tuple(dict.fromkeys(n for n in wanted if n and (n == line.node or re.search(rf"(?<![\w.-]){re.escape(n)}(?![\w-])", line.text))))


def _joined(first: Iterable[Line], then: Iterable[Line]) -> tuple[Line, ...]:
    """Return the lines in this order, each number once."""
    lines: dict[int, Line] = {}
    for line in (*first, *then):
        lines.setdefault(line.line_number, line)
    return tuple(lines.values())


_MARKUP = re.compile(r"<[!@#][^>]*>|<(?=\w+:)|@(?:here|channel|everyone)\b", re.IGNORECASE)
_LINK = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//[^\s<>\"')]+|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
"""What a chat program makes clickable: never taken over, not even from the log, which may want to be clicked."""
_ADDRESS = re.compile(
    r"~?/(?:[\w.@+-]+/)*[\w.@+-]+"  # a path
    r"|\b(?:\d{1,3}\.){3}\d{1,3}\b"  # an IP address
    r"|\b(?:[a-z0-9-]+\.)+(?:com|net|org|io|ai|dev|app|sh|edu|gov|info|me|co|local|internal|cluster)\b"
    r"|\b[A-Za-z][A-Za-z-]*\d[\w-]*\b",  # a name with a number in it, such as a host's
    re.IGNORECASE,
)


def _plain(text: str, lines: Iterable[Line]) -> str:
    """Return a model's sentence without markup and links, and without any path, address or name that the lines do not hold."""
    said = "\n".join(f"{line.text} {line.node or ''}" for line in lines).casefold()
    text = _LINK.sub("[link removed]", _MARKUP.sub(" ", display(text)))
    text = _ADDRESS.sub(lambda found: found.group() if found.group().rstrip(".,;:").casefold() in said else "[removed]", text)
    return re.sub(r"\s+", " ", clean(text)).strip()[:CAUSE_CHARS_MAX]
