"""A typed client of the HTTP API, for synchronous and asyncio programs.

    client = AttributionClient("http://127.0.0.1:8000")
    client.submit("/logs/slurm-1234.out", user="alice", job_id="1234")
    print(client.result("/logs/slurm-1234.out").attribution)

Hold in mind: every request of this API is idempotent, so what failed on the way, was refused for a while (429, 503) or
broke off is sent again, after the pause that the service names. What the service says no to is the same typed error
that the service raised (``attr_actors.errors``).
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import TypeVar

import httpx

from attr_actors.client_wire import USUAL, Call, Calls, Patience, Stats, checked, headers, typed
from attr_actors.errors import AttrError
from attr_actors.models import Intent, JobMode
from serve_app.bodies import HealthReply, InflightReply, JobsReply, ResultReply, SubmitReply

__all__ = ["AsyncAttributionClient", "AttributionClient", "Patience"]

T = TypeVar("T")


class AttributionClient:
    """The client for synchronous programs; close it, or use it as a context manager."""

    def __init__(self, url: str, api_key: str | None = None, patience: Patience = USUAL) -> None:
        """Raises InvalidParameter for a URL that cannot be asked."""
        self._patience = patience
        self._http = httpx.Client(base_url=checked(url), headers=headers(api_key))

    def __enter__(self) -> AttributionClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self,
        log_path: str,
        user: str = "unknown",
        job_id: str | None = None,
        cycle_id: int | None = None,
        analysis_intent: Intent = Intent.TRACK_ONLY,
    ) -> SubmitReply:
        """Track a job's log (POST /logs)."""
        return self._send(Calls.submit(log_path, user, job_id, cycle_id, analysis_intent))

    def result(
        self,
        log_path: str,
        file: str | None = None,
        wl_restart: int | None = None,
        *,
        all_files: bool = False,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> ResultReply:
        """Return why a job died (GET /logs)."""
        return self._send(Calls.result(log_path, file, wl_restart, all_files, wait, timeout_s))

    def jobs(self, mode: JobMode | None = None, limit: int = 100, offset: int = 0) -> JobsReply:
        """Return one page of tracked jobs, newest first (GET /jobs)."""
        return self._send(Calls.jobs(mode, limit, offset))

    def preview(self, log_path: str) -> str:
        """Return the beginning of a log (GET /print)."""
        return self._send(Calls.preview(log_path))

    def health(self, ready: bool = False) -> HealthReply:
        """Return how the service is (GET /healthz), whatever its status code."""
        return self._send(Calls.health(ready))

    def stats(self) -> Stats:
        """Return the counters by group (GET /stats)."""
        return self._send(Calls.stats())

    def inflight(self) -> InflightReply:
        """Return the analyses under way (GET /inflight)."""
        return self._send(Calls.inflight())

    def _send(self, call: Call[T]) -> T:
        attempt, paused_s = 1, 0.0
        while True:
            try:
                return call.read(self._http.request(call.method, call.path, **call.arguments()))
            except (httpx.TransportError, AttrError) as exc:
                error = typed(exc, self._http.base_url)
            pause = self._patience.pause_s(attempt, paused_s, error)
            if pause is None:
                raise error
            time.sleep(pause)
            attempt, paused_s = attempt + 1, paused_s + pause


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

    async def submit(
        self,
        log_path: str,
        user: str = "unknown",
        job_id: str | None = None,
        cycle_id: int | None = None,
        analysis_intent: Intent = Intent.TRACK_ONLY,
    ) -> SubmitReply:
        """Track a job's log (POST /logs)."""
        return await self._send(Calls.submit(log_path, user, job_id, cycle_id, analysis_intent))

    async def result(
        self,
        log_path: str,
        file: str | None = None,
        wl_restart: int | None = None,
        *,
        all_files: bool = False,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> ResultReply:
        """Return why a job died (GET /logs)."""
        return await self._send(Calls.result(log_path, file, wl_restart, all_files, wait, timeout_s))

    async def jobs(self, mode: JobMode | None = None, limit: int = 100, offset: int = 0) -> JobsReply:
        """Return one page of tracked jobs, newest first (GET /jobs)."""
        return await self._send(Calls.jobs(mode, limit, offset))

    async def preview(self, log_path: str) -> str:
        """Return the beginning of a log (GET /print)."""
        return await self._send(Calls.preview(log_path))

    async def health(self, ready: bool = False) -> HealthReply:
        """Return how the service is (GET /healthz), whatever its status code."""
        return await self._send(Calls.health(ready))

    async def stats(self) -> Stats:
        """Return the counters by group (GET /stats)."""
        return await self._send(Calls.stats())

    async def inflight(self) -> InflightReply:
        """Return the analyses under way (GET /inflight)."""
        return await self._send(Calls.inflight())

    async def _send(self, call: Call[T]) -> T:
        attempt, paused_s = 1, 0.0
        while True:
            try:
                return call.read(await self._http.request(call.method, call.path, **call.arguments()))
            except (httpx.TransportError, AttrError) as exc:
                error = typed(exc, self._http.base_url)
            pause = self._patience.pause_s(attempt, paused_s, error)
            if pause is None:
                raise error
            await asyncio.sleep(pause)
            attempt, paused_s = attempt + 1, paused_s + pause
