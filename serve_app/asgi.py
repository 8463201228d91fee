"""The few words of ASGI that the code in front of FastAPI speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from attr_actors.errors import AttrError
from serve_app.error_replies import error_body, error_headers

Message = MutableMapping[str, Any]
AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[AsgiScope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


async def send_reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a JSON body and its headers."""
    headers = [*headers, JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, exc: AttrError, headers: Headers) -> None:
    """Send the error body, and the headers that belong to it."""
    more = [(name.lower().encode(), value.encode()) for name, value in error_headers(exc).items()]
    await send_reply(send, exc.http_status, [*headers, *more], error_body(exc.code, exc.message))
