"""The few words of ASGI that the code in front of FastAPI speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from attr_actors.errors import AttrError, BodyTooLarge
from serve_app.bodies import BODY_BYTES_MAX
from serve_app.error_replies import error_body, error_headers

Message = MutableMapping[str, Any]
AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[AsgiScope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


def check_body(size: int) -> None:
    """Raise BodyTooLarge if so many bytes are too many."""
    if size > BODY_BYTES_MAX:
        raise BodyTooLarge(f"the body has more than {BODY_BYTES_MAX} bytes")


def announced_bytes(scope: AsgiScope) -> int:
    """Return the length of the body as its sender tells it; 0 if not told."""
    told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(told) if told.isdigit() else 0


async def send_reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a JSON body and its headers."""
    headers = [*headers, JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, exc: AttrError, headers: Headers) -> None:
    """Send the error body, and the headers that belong to it."""
    more = [(name.lower().encode(), value.encode()) for name, value in error_headers(exc).items()]
    await send_reply(send, exc.http_status, [*headers, *more], error_body(exc.code, exc.message))
