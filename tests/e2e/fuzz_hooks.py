"""Hooks of the fuzzer: every other request names a log that exists, so that more than the check of paths is reached."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import schemathesis

LOGS = itertools.cycle(sorted(str(path) for path in Path(os.environ["FUZZ_ROOT"]).iterdir()))
TURN = itertools.count()


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    return _with_log(query)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    return _with_log(body)


def _with_log(fields: Any) -> Any:
    if isinstance(fields, dict) and isinstance(fields.get("log_path"), str) and next(TURN) % 2:
        return fields | {"log_path": next(LOGS)}
    return fields
