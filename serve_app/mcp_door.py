"""``/mcp`` of the service: the tools over streamable HTTP.

Hold in mind: the SDK takes a second of processor time to import, so a replica loads it with the first request to
``/mcp``. Requests are stateless: any replica answers any request. So there is POST only: a stream (GET) would never
carry anything and hold a request's place, and there is no session to end (DELETE).
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from attr_actors import tracing
from attr_actors.settings import Settings
from serve_app.bodies import BODY_BYTES_MAX
from serve_app.service import AttributionService

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_mcp(api: FastAPI, settings: Settings, service: AttributionService) -> None:
    """Add ``/mcp`` to the API."""
    door = _LazyDoor(settings, service)
    api.router.routes.append(Route("/mcp", endpoint=door, methods=["POST"], include_in_schema=False))
    inner = api.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with inner(app) as state:
            yield state
        await door.close()

    api.router.lifespan_context = lifespan


class _LazyDoor:
    """Loads the SDK and starts its session manager with the first request."""

    def __init__(self, settings: Settings, service: AttributionService) -> None:
        self._settings = settings
        self._service = service
        self._opening: asyncio.Task[None] | None = None
        self._app: asyncio.Future[ASGIApp] | None = None
        self._closed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._opening is None or self._app is None or self._opening.done():
            self._app = asyncio.get_running_loop().create_future()
            self._opening = asyncio.create_task(self._run(self._app))
        both: set[asyncio.Future[Any]] = {self._app, self._opening}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not self._app.done():
            self._opening.result()  # It failed to open: this request says so, and the next one tries again.
        await self._app.result()(scope, receive, send)

    async def close(self) -> None:
        """End the session manager."""
        if self._opening is not None:
            self._closed.set()
            await self._opening

    async def _run(self, opened: asyncio.Future[ASGIApp]) -> None:
        """Hold the session manager open: what enters it must also leave it, so that it has a task of its own."""
        tracing.leave()
        app, sessions = await asyncio.to_thread(self._build)
        async with sessions:
            opened.set_result(app)
            await self._closed.wait()

    def _build(self) -> tuple[ASGIApp, AbstractAsyncContextManager[None]]:
        from mcp.server.transport_security import TransportSecuritySettings

        from serve_app.mcp_server import build_mcp

        server = build_mcp(self._service)
        # A page in somebody's browser must not reach a service on that machine's loopback under another name. Beyond
        # loopback the service has keys, and any name may lead to it.
        host = self._settings.host if self._settings.host in LOOPBACK else "0.0.0.0"
        security = None if host in LOOPBACK else TransportSecuritySettings(enable_dns_rebinding_protection=False)
        app = server.streamable_http_app(
            json_response=True, stateless_http=True, host=host, transport_security=security, max_request_body_size=BODY_BYTES_MAX
        )
        route = next(route for route in app.routes if isinstance(route, Route))
        return route.endpoint, server.session_manager.run()
