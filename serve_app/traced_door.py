"""A span around each request, in the trace that the client names. Stands before the door only where traces are on."""

from __future__ import annotations

import asyncio
import urllib.parse

from attr_actors import tracing
from serve_app.asgi import Asgi, AsgiScope, Message, Receive, Send
from serve_app.door import OTHER, REQUEST_ID, RULES

CARRIED = {b"traceparent": "traceparent", b"tracestate": "tracestate"}
REQUEST_ID_HEADER = b"x-request-id"


class TracedDoor:
    """The ASGI application that a replica serves while traces are on. The door itself knows nothing of it."""

    def __init__(self, door: Asgi) -> None:
        self._door = door

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request inside a span."""
        if scope["type"] != "http":
            await self._live(scope, receive, send)
            return
        rule = RULES.get((scope["method"], scope["path"]), OTHER)
        name = rule.name if rule is OTHER else f"{scope['method']} {scope['path']}"
        reply: Message = {"status": 499, "headers": ()}  # The client went away before anything was sent.

        async def noting(message: Message) -> None:
            nonlocal reply
            if message["type"] == "http.response.start":
                reply = message
            await send(message)

        with tracing.request(name, _carrier(scope), {"attr.route": rule.name}) as span:
            try:
                await self._door(scope, receive, noting)
            finally:
                span.set(_facts(scope, reply))
                if reply["status"] >= 500:
                    span.fail(str(reply["status"]))

    async def _live(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        async def ending(message: Message) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(tracing.stop)
            await send(message)

        await self._door(scope, receive, ending)


def _carrier(scope: AsgiScope) -> tracing.Carrier:
    return {CARRIED[name]: value.decode("latin-1") for name, value in scope["headers"] if name in CARRIED}


def _facts(scope: AsgiScope, reply: Message) -> tracing.Attributes:
    """Return what the span tells of a request that has ended. Replies from memory leave no state: their path is in the query."""
    state = scope.get("state") or {}
    return {
        "http.response.status_code": reply["status"],
        "attr.request_id": _request_id(scope, reply),
        "attr.log_path": state.get("log_path") or _asked_path(scope),
        "attr.job_id": state.get("job"),
    }


def _request_id(scope: AsgiScope, reply: Message) -> str | None:
    """Return the name that the request got, or that its client gave it where the door answered alone."""
    found = (value for headers in (reply.get("headers", ()), scope["headers"]) for name, value in headers if name == REQUEST_ID_HEADER)
    given: bytes = next(found, b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else None


def _asked_path(scope: AsgiScope) -> str | None:
    asked = urllib.parse.parse_qs(scope["query_string"].decode("latin-1"))
    return asked["log_path"][0] if "log_path" in asked else None
