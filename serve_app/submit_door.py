"""POST /logs in plain ASGI: a well-formed submission is answered here; anything else is FastAPI's to judge.

Hold in mind: there is one contract. What this code does not understand at once (another content type, a long or broken body) goes
to FastAPI as if nobody had touched it; and a bug meets the same last resort here as there.
"""

from __future__ import annotations

import asyncio
from functools import partial

from pydantic import ValidationError
from starlette.middleware.errors import ServerErrorMiddleware

from attr_actors.errors import AttrError
from serve_app.api import on_bug
from serve_app.asgi import Asgi, AsgiScope, Message, Receive, Send, check_body, send_error, send_reply
from serve_app.bodies import SubmitBody
from serve_app.service import AttributionService

BODY_S = 30.0
"""A body that is not complete after this is judged as it is: a client that trickles must not hold a place for ever."""


class SubmitDoor:
    """Answers POST /logs for callers whom the door has let in; ``app`` is FastAPI."""

    def __init__(self, service: AttributionService, app: Asgi) -> None:
        self._service = service
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises BodyTooLarge."""
        received: list[Message] = []
        asked = await _read(scope, receive, received)
        if asked is None:
            await self._app(scope, _again(received, receive), send)
        else:
            await ServerErrorMiddleware(partial(self._submit, asked), on_bug)(scope, receive, send)

    async def _submit(self, asked: SubmitBody, scope: AsgiScope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        state["log_path"], state["job"] = asked.log_path, asked.job_id
        try:
            reply = await self._service.submit(asked, state["caller"].root)
        except AttrError as exc:
            await send_error(send, exc, [])
        else:
            await send_reply(send, 200, [], reply.model_dump_json().encode())


async def _read(scope: AsgiScope, receive: Receive, received: list[Message]) -> SubmitBody | None:
    """Read the body, noting what was received; None if it is not a valid submission."""
    try:
        async with asyncio.timeout(BODY_S):
            body = await _body(receive, received)
    except TimeoutError:
        received.append({"type": "http.request", "body": b"", "more_body": False})
        return None
    if not any(name == b"content-type" and value.startswith(b"application/json") for name, value in scope["headers"]):
        return None
    try:
        return SubmitBody.model_validate_json(body)
    except ValidationError:
        return None


async def _body(receive: Receive, received: list[Message]) -> bytes:
    """Return the body; nothing if the client went away. Raises BodyTooLarge."""
    size, more = 0, True
    while more:
        message = await receive()
        received.append(message)
        size += len(message.get("body", b""))
        check_body(size)
        if message["type"] != "http.request":
            return b""
        more = message.get("more_body", False)
    return b"".join(message.get("body", b"") for message in received)


def _again(received: list[Message], receive: Receive) -> Receive:
    """Receive what was received already, and then the rest."""
    left = iter(received)

    async def receiving() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return receiving
