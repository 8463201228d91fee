"""A typed client of the HTTP API, for synchronous and asyncio programs.

    >>> with AttributionClient(url) as client:  # For example http://127.0.0.1:8000
    ...     submitted = client.submit(path, user="alice", job_id="1234")
    ...     answer = client.result(path)
    >>> submitted.mode, answer.recommendation.action, answer.attribution.root_lines[0].line_number
    (<JobMode.SINGLE: 'single'>, 'STOP', 4097)

Hold in mind: every request of this API is idempotent, so what failed on the way, was refused for a while (429, 503) or
broke off is sent again, after the pause that the service names. What the service says no to is the same typed error
that the service raised (``attr_actors.errors``).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from attr_actors.client_wire import USUAL, Attempts, Call, Calls, Patience, checked, headers, typed
from attr_actors.errors import AttrError

__all__ = ["AsyncAttributionClient", "AttributionClient", "Patience"]

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(make: Callable[P, Call[T]]) -> Callable[Concatenate[AttributionClient, P], T]:
    """Return the method that sends a call and waits for its reply."""

    def ask(self: AttributionClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(make(*args, **kwargs))

    _describe(ask, make)
    return ask


def _awaited(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncAttributionClient, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method that sends a call."""

    async def ask(self: AsyncAttributionClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(make(*args, **kwargs))

    _describe(ask, make)
    return ask


def _describe(ask: Callable[..., Any], make: Callable[..., Any]) -> None:
    """Let ``help()`` show a method's own name, parameters and docstring."""
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ask.__name__, ask.__doc__ = make.__name__, make.__doc__
    vars(ask)["__signature__"] = inspect.Signature([me, *inspect.signature(make).parameters.values()])


class AttributionClient:
    """The client for synchronous programs; close it, or use it as a context manager."""

    def __init__(
        self, url: str, api_key: str | None = None, patience: Patience = USUAL, pause: Callable[[float], object] = time.sleep
    ) -> None:
        """``pause`` waits between two attempts, s. Raises InvalidParameter for a URL that cannot be asked."""
        self._patience = patience
        self._pause = pause
        self._http = httpx.Client(base_url=checked(url), headers=headers(api_key))

    def __enter__(self) -> AttributionClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    submit = _blocking(Calls.submit)
    result = _blocking(Calls.result)
    jobs = _blocking(Calls.jobs)
    preview = _blocking(Calls.preview)
    health = _blocking(Calls.health)
    stats = _blocking(Calls.stats)
    inflight = _blocking(Calls.inflight)

    def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._patience)
        while True:
            try:
                return call.read(self._http.request(call.method, call.path, **call.arguments()))
            except (httpx.TransportError, AttrError) as exc:
                pause = attempts.pause_s(typed(exc, self._http.base_url))
            self._pause(pause)


class AsyncAttributionClient:
    """The client for asyncio programs; close it, or use it as an async context manager."""

    def __init__(self, url: str, api_key: str | None = None, patience: Patience = USUAL) -> None:
        """Raises InvalidParameter for a URL that cannot be asked."""
        self._patience = patience
        self._http = httpx.AsyncClient(base_url=checked(url), headers=headers(api_key))

    async def __aenter__(self) -> AsyncAttributionClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    submit = _awaited(Calls.submit)
    result = _awaited(Calls.result)
    jobs = _awaited(Calls.jobs)
    preview = _awaited(Calls.preview)
    health = _awaited(Calls.health)
    stats = _awaited(Calls.stats)
    inflight = _awaited(Calls.inflight)

    async def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._patience)
        while True:
            try:
                return call.read(await self._http.request(call.method, call.path, **call.arguments()))
            except (httpx.TransportError, AttrError) as exc:
                pause = attempts.pause_s(typed(exc, self._http.base_url))
            await asyncio.sleep(pause)
