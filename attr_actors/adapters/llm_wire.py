"""What goes over the wire between us and a chat endpoint: how it is asked for a format, and how its response is read.

Hold in mind: a response is untrusted. Its size is bounded while it is read, and nothing in it is needed but a text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import httpx2
from pydantic import BaseModel, Field, ValidationError

from attr_actors.errors import BadReply

RESPONSE_BYTES_MAX = 2_000_000
"""A reply of the longest allowed token count stays far below; a huge one is cut off while it is read."""

ANSWER = "answer"


class Format(IntEnum):
    """How the endpoint is told to answer in the schema, best first. What it refuses is not tried again."""

    JSON_SCHEMA = 0
    TOOL = 1
    PLAIN = 2


def format_arguments(wanted: Format, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a request that ask for an answer in the schema."""
    match wanted:
        case Format.JSON_SCHEMA:
            return {"response_format": {"type": "json_schema", "json_schema": {"name": ANSWER, "strict": True, "schema": schema}}}
        case Format.TOOL:
            tool = {"type": "function", "function": {"name": ANSWER, "description": "Give the answer.", "parameters": schema}}
            return {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": ANSWER}}}
        case Format.PLAIN:
            return {}


@dataclass(frozen=True)
class Question:
    """What is asked: a schema for the answer, and the longest reply in tokens."""

    model: str
    messages: Sequence[dict[str, str]]
    schema: dict[str, Any]
    tokens_max: int


@dataclass(frozen=True)
class Completion:
    """What one call brought. ``text`` is the reply's JSON or prose; ``cut`` tells that the token limit ended it."""

    text: str
    model: str
    tokens_in: int
    tokens_out: int
    cut: bool = False


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > RESPONSE_BYTES_MAX:
                raise httpx2.DecodingError(f"the reply is larger than {RESPONSE_BYTES_MAX} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """Cuts responses off at a size, and refuses compressed ones, which could grow beyond it."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the response with a bounded body."""
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.DecodingError("the reply is compressed though that was not asked for")
        response.stream = _BoundedStream(cast(httpx2.AsyncByteStream, response.stream))
        return response


class _Function(BaseModel):
    arguments: str | dict[str, Any] = ""


class _ToolCall(BaseModel):
    function: _Function = _Function()


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Wire(BaseModel):
    """What is read of a response: servers leave out and add fields, so it is no more than is needed."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def read_completion(body: bytes, model: str) -> Completion:
    """Read a response. Raises BadReply."""
    try:
        wire = _Wire.model_validate_json(body)
    except ValidationError:
        raise BadReply("the model endpoint's answer is not a completion") from None
    choice, usage = wire.choices[0], wire.usage or _Usage()
    text = choice.message.content or ""
    if choice.message.tool_calls and not text.strip().startswith("{"):
        given = choice.message.tool_calls[0].function.arguments
        text = given if isinstance(given, str) else json.dumps(given)
    if choice.message.refusal or choice.finish_reason == "content_filter":
        raise BadReply("the model refused to answer")
    return Completion(text, model, usage.prompt_tokens, usage.completion_tokens, cut=choice.finish_reason == "length")
