"""Speaks to the attribution service over HTTP as its clients do: POST a job's log, GET why it died.

Hold in mind: 429 and 503 say in ``Retry-After`` when to come back; a refusal (other 4xx) will not change by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

import httpx

from attr_actors.errors import BadReply, NotFound, RequestError, Unavailable

TRIES = 3
"""Attempts per request within one look; the next look is the next attempt."""

RATE_LIMITED_DELAYS_S = (10.0, 20.0, 40.0)
ERROR_DELAY_S = 5.0
DELAY_MAX_S = 120.0
"""No answer of a server makes the monitor sleep longer than this at a time."""


class AttributionClient:
    """One service. Blocking; raises Unavailable (try again later), RequestError (refused) or BadReply."""

    def __init__(self, url: str, timeout_s: float, api_key: str = "", sleep: Callable[[float], None] = time.sleep) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout_s, headers=headers, trust_env=False)
        self.sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def submit(self, log_path: str, user: str, job_id: str, intent: str) -> dict[str, Any]:
        """Announce a log (``track_only``) or its end (``terminal``); return the reply's body."""
        body = {"log_path": log_path, "user": user, "job_id": job_id, "analysis_intent": intent}
        return self._ask("POST", json=body)

    def result(self, log_path: str) -> dict[str, Any]:
        """Return the answer's body, whatever its state. Waits up to the request timeout."""
        body = self._ask("GET", params={"log_path": log_path})
        if not isinstance(body.get("result"), dict) or "module" not in body["result"]:
            raise BadReply("the service's answer has no result")
        return body

    def _ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                reply = self._http.request(method, "/logs", **arguments)
            except httpx.TransportError as exc:
                if last:
                    raise Unavailable(f"the service does not answer: {type(exc).__name__} {exc}".strip()) from None
                self.sleep(ERROR_DELAY_S)
                continue
            if reply.status_code != 429 and reply.status_code < 500:
                return _body(reply)
            if last:
                raise Unavailable(f"the service answered {reply.status_code}: {_message(reply)}")
            self.sleep(_delay_s(reply, attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")


def _body(reply: httpx.Response) -> dict[str, Any]:
    if reply.status_code == 404:
        raise NotFound(_message(reply))
    if reply.status_code != 200:
        raise RequestError(f"{reply.status_code}: {_message(reply)}")
    try:
        body = reply.json()
    except ValueError:
        raise BadReply("the service's answer is not JSON") from None
    if not isinstance(body, dict):
        raise BadReply("the service's answer is not a JSON object")
    return body


def _message(reply: httpx.Response) -> str:
    try:
        body = reply.json()
        return str(body.get("message") or body.get("detail") or "")[:300]
    except (ValueError, AttributeError):
        return reply.text[:100]


def _delay_s(reply: httpx.Response, attempt: int) -> float:
    asked = reply.headers.get("Retry-After", "")
    if asked.isdigit():
        return min(float(asked), DELAY_MAX_S)
    return RATE_LIMITED_DELAYS_S[attempt] if reply.status_code == 429 else ERROR_DELAY_S
