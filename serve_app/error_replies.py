"""The one error body of all routes, for FastAPI and for what answers in front of it."""

from __future__ import annotations

import json
import math
from typing import Any

from attr_actors.errors import AttrError, Unauthorized

RETRY_AFTER_DEFAULT_S = 2
"""What a 429 or 503 without a better guess tells the client to wait: a killed actor is back within about a second."""


def error_body(code: str, message: str, details: Any = None, **more: str) -> bytes:
    """Return the JSON body."""
    return json.dumps({"error_code": code, "message": message, "details": details, **more}, separators=(",", ":")).encode()


def error_headers(exc: AttrError) -> dict[str, str]:
    """Return the headers that belong to an error."""
    if exc.http_status in (429, 503):
        return {"Retry-After": str(max(1, math.ceil(exc.retry_after_s or RETRY_AFTER_DEFAULT_S)))}
    if isinstance(exc, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    return {}
