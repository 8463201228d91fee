"""A model's reply: its JSON schema, and its text parsed into a bounded, typed Reply or refused as BadReply.

Hold in mind: what is parsed here is only well formed. Whether it is believed is decided in ``grounding``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attr_actors.errors import BadReply
from attr_actors.models import Action, Category

CITATIONS_MAX = 8
NODES_MAX = 16
LOOKUPS_MAX = 3
REPLY_CHARS_MAX = 64_000
"""A longer reply is babble: the schema's answer takes about a thousand characters."""


class Citation(BaseModel):
    """A line that the model says proves its claim."""

    line: int
    quote: str = ""


class Lookup(BaseModel):
    """A wish to see more of the log."""

    kind: Literal["search", "window"]
    text: str = ""
    line: int = 0


class Reply(BaseModel):
    """What the model said, bounded and typed, not yet checked against the log."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)

    root_cause: str = Field(min_length=1)
    citations: tuple[Citation, ...] = ()
    category: Category
    action: Action
    nodes: tuple[str, ...] = ()
    lookups: tuple[Lookup, ...] = ()

    @field_validator("root_cause", mode="after")
    @classmethod
    def _cut(cls, value: str) -> str:
        return value[:1000]

    @field_validator("citations", "nodes", "lookups", mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        return () if value is None else value[: CITATIONS_MAX + NODES_MAX] if isinstance(value, list) else value

    @field_validator("category", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("action", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value


def restored(reply: Reply, restore: Callable[[str], str]) -> Reply:
    """Return the reply with the identities put back, so that it means the same to whoever reads it later."""
    citations = tuple(Citation(line=c.line, quote=restore(c.quote)) for c in reply.citations)
    nodes = tuple(restore(node) for node in reply.nodes)
    return reply.model_copy(update={"root_cause": restore(reply.root_cause), "citations": citations, "nodes": nodes})


def reply_schema(with_lookups: bool) -> dict[str, Any]:
    """Return the JSON schema of a reply, in the subset that strict modes of the common servers accept."""
    citation = _object({"line": {"type": "integer"}, "quote": {"type": "string"}})
    properties: dict[str, Any] = {
        "root_cause": {"type": "string"},
        "citations": {"type": "array", "items": citation, "maxItems": CITATIONS_MAX},
        "category": {"type": "string", "enum": [c.value for c in Category]},
        "action": {"type": "string", "enum": [a.value for a in Action]},
        "nodes": {"type": "array", "items": {"type": "string"}, "maxItems": NODES_MAX},
    }
    if with_lookups:
        lookup = _object(
            {"kind": {"type": "string", "enum": ["search", "window"]}, "text": {"type": "string"}, "line": {"type": "integer"}}
        )
        properties["lookups"] = {"type": "array", "items": lookup, "maxItems": LOOKUPS_MAX}
    return _object(properties)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)", re.DOTALL)


def parse_reply(text: str) -> Reply:
    """Return the reply in a model's text. Raises BadReply with a problem that is safe to show to the model and to people."""
    if len(text) > REPLY_CHARS_MAX:
        raise BadReply(f"the reply has {len(text)} characters")
    text = _THINKING.sub("", text).strip()
    if not text:
        raise BadReply("the reply is empty")
    try:
        return Reply.model_validate(_first_object(text))
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise BadReply(f"field '{where}': {fault['msg'][:120]}") from None


def _first_object(text: str) -> dict[str, Any]:
    """Return the first JSON object that has an action; prose and code fences around it are ignored."""
    decoder = json.JSONDecoder()
    best: dict[str, Any] | None = None
    start = text.find("{")
    for _ in range(20):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            if "action" in value:
                return value
            best = best or value
        start = text.find("{", end)
    if best is None:
        raise BadReply("it holds no complete JSON object")
    return best
