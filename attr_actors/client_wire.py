"""What the client's requests look like on the wire: paths, parameters, replies, errors and pauses. Knows no connection."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from attr_actors.core.backoff import delay_s
from attr_actors.errors import AttrError, InvalidParameter, RequestError, Unavailable
from attr_actors.models import Intent, JobMode
from serve_app.bodies import HealthReply, InflightReply, JobsReply, ResultReply, SubmitBody, SubmitReply

T = TypeVar("T")
Stats = dict[str, dict[str, Any]]

REQUEST_TIMEOUT_S = 30.0
"""Everything but a GET that waits for an analysis is answered in milliseconds."""
ANALYSIS_TIMEOUT_S = 320.0
"""A waiting GET: the service's own default limit of 300 s, and some time to say so."""
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Patience:
    """How often and how long a request is repeated."""

    attempts_max: int = 6
    pauses_max_s: float = 60.0
    first_pause_s: float = 0.2


USUAL = Patience()
"""Rides out a restart of the service, and not much more."""


class Attempts:
    """The attempts of one request."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failed = 0
        self._paused_s = 0.0

    def pause_s(self, error: AttrError) -> float:
        """Return the pause after a failed attempt: what the service named, else a growing one. Raises the error to give up."""
        patience, self._failed = self._patience, self._failed + 1
        if not error.retryable or self._failed >= patience.attempts_max:
            raise error from None
        named = error.retry_after_s
        pause = named if named is not None else delay_s(self._failed, patience.first_pause_s, LONGEST_PAUSE_S, random.random())
        self._paused_s += pause
        if self._paused_s > patience.pauses_max_s:
            raise error from None
        return pause


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how to read its reply."""

    read: Callable[[httpx.Response], T]
    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    body: BaseModel | None = None
    timeout_s: float = REQUEST_TIMEOUT_S

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of httpx's ``request``; what is None is left out."""
        given = {"params": {k: v for k, v in self.params.items() if v is not None}, "timeout": self.timeout_s}
        return given | ({"json": self.body.model_dump(mode="json", exclude_none=True)} if self.body else {})


class HealthSeen(HealthReply):
    """GET /healthz, and whether it was a 200: with ``ready=True`` it is one once the ledger and the tracker answer."""

    ready: bool = Field(True, exclude=True)


class Calls:
    """The requests of the API: what both clients' methods take, send and return."""

    @staticmethod
    def submit(
        log_path: str,
        user: str = "unknown",
        job_id: str | None = None,
        cycle_id: int | None = None,
        analysis_intent: Intent = Intent.TRACK_ONLY,
    ) -> Call[SubmitReply]:
        """Track a job's log (POST /logs)."""
        body = SubmitBody.of(log_path=log_path, user=user, job_id=job_id, cycle_id=cycle_id, analysis_intent=analysis_intent)
        return Call(_model(SubmitReply), "POST", "/logs", body=body)

    @staticmethod
    def result(
        log_path: str,
        file: str | None = None,
        wl_restart: int | None = None,
        *,
        all_files: bool = False,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> Call[ResultReply]:
        """Return why a job died (GET /logs)."""
        asked = {"log_path": log_path, "file": file, "wl_restart": wl_restart, "timeout_s": timeout_s}
        asked |= {"all_files": True if all_files else None, "wait": None if wait else False}
        limit_s = REQUEST_TIMEOUT_S if not wait else ANALYSIS_TIMEOUT_S if timeout_s is None else timeout_s + REQUEST_TIMEOUT_S
        return Call(_model(ResultReply), "GET", "/logs", asked, timeout_s=limit_s)

    @staticmethod
    def jobs(mode: JobMode | None = None, limit: int = 100, offset: int = 0) -> Call[JobsReply]:
        """Return one page of tracked jobs, newest first (GET /jobs)."""
        return Call(_model(JobsReply), "GET", "/jobs", {"mode": mode.value if mode else None, "limit": limit, "offset": offset})

    @staticmethod
    def preview(log_path: str) -> Call[str]:
        """Return the beginning of a log (GET /print)."""
        return Call(_text, "GET", "/print", {"log_path": log_path})

    @staticmethod
    def health(ready: bool = False) -> Call[HealthSeen]:
        """Return how the service is (GET /healthz), whatever its status code."""
        return Call(_health, "GET", "/healthz", {"ready": True if ready else None})

    @staticmethod
    def stats() -> Call[Stats]:
        """Return the counters by group (GET /stats)."""
        return Call(_stats, "GET", "/stats")

    @staticmethod
    def inflight() -> Call[InflightReply]:
        """Return the analyses under way (GET /inflight)."""
        return Call(_model(InflightReply), "GET", "/inflight")


def checked(url: str) -> str:
    """Return a URL that can be asked. Raises InvalidParameter."""
    try:
        known = httpx.URL(url)
    except httpx.InvalidURL:
        known = httpx.URL()
    if known.scheme not in ("http", "https") or not known.host:
        raise InvalidParameter(f"'{url}' is not an http or https URL")
    return url


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def typed(exc: httpx.TransportError | AttrError, url: httpx.URL) -> AttrError:
    """Return the typed error of a failed attempt: one that did not reach the service may succeed later."""
    return exc if isinstance(exc, AttrError) else Unavailable(f"{url} did not answer: {exc or type(exc).__name__}")


def _model(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda reply: _parsed(TypeAdapter(kind), _ok(reply))


def _stats(reply: httpx.Response) -> Stats:
    return _parsed(TypeAdapter(Stats), _ok(reply))


def _health(reply: httpx.Response) -> HealthSeen:
    refused = reply.status_code == 503 and b'"status"' in reply.content
    return _parsed(TypeAdapter(HealthSeen), reply if refused else _ok(reply)).model_copy(update={"ready": not refused})


def _text(reply: httpx.Response) -> str:
    return _ok(reply).text


def _parsed(adapter: TypeAdapter[T], reply: httpx.Response) -> T:
    try:
        return adapter.validate_json(reply.content)
    except ValidationError:
        raise RequestError(f"{reply.url.copy_with(query=None)} does not answer like this service; is the URL right?") from None


def _ok(reply: httpx.Response) -> httpx.Response:
    if reply.status_code != 200:
        raise _refusal(reply)
    return reply


def _refusal(reply: httpx.Response) -> AttrError:
    """Return the typed error of an error reply: by its code, else by its status.

    One without a code is not the service's: Serve's proxy answers 404 to everything for a second while HAProxy starts.
    """
    status, url = reply.status_code, reply.url.copy_with(query=None)
    try:
        body = reply.json()
        code, message = str(body["error_code"]).removeprefix("errorcode."), str(body["message"])
    except (ValueError, KeyError, TypeError):
        by_status: type[AttrError] = InvalidParameter if status == 422 else Unavailable  # FastAPI's own word, in older servers.
        message = f"{url} answered {status} without an error code: the service is starting, or something else answers there"
        return by_status(message, _retry_after_s(reply))
    by_status = Unavailable if status in (429, 502, 503, 504) else InvalidParameter if status == 422 else AttrError
    by_status = RequestError if by_status is AttrError and status < 500 else by_status
    return _errors_by_code().get(code, by_status)(message, _retry_after_s(reply))


def _errors_by_code(base: type[AttrError] = AttrError) -> dict[str, type[AttrError]]:
    found = {base.code: base} if "code" in vars(base) else {}
    for kind in base.__subclasses__():
        found |= _errors_by_code(kind)
    return found


def _retry_after_s(reply: httpx.Response) -> float | None:
    """Return what Retry-After asks for: seconds or a date."""
    text = reply.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
