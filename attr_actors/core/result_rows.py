"""One line of RESULTS.jsonl: what ``batch`` writes and ``analyze --json`` prints. The schema is a contract, documented here.

Every key is always there, in this order; ``null`` where it does not apply. A reader ignores keys that it does not know;
``schema_version`` rises when a key changes its meaning or goes. ``table_rows.py`` is the same in flat columns.

    schema_version    1
    log_path          absolute path of the log as it was named
    error_code        why there is no answer, as in the HTTP API (``empty_file``, ``not_readable``, ...); null with an answer
    error             the same for people
    user, job_id      the file's owner; the job's id where the path tells it
    size, mtime_ns    of the file that was read, bytes and ns
    engine            fingerprint of rules and limits: another one may answer differently
    result_id         content address of the answer, equal to the HTTP API's
    analysed_at       epoch seconds
    scan_s, log_bytes time of the analysis in s, decompressed bytes read
    reused            true if the log's analysis was in the ledger; a model's opinion on it may be new
    wl_restart_count  workload cycles in the file
    attribution       the answer for the last cycle, which ended the job; byte-identical to ``attribution`` of GET /logs
    earlier           the answers for the cycles before it, in order
"""

from __future__ import annotations

from typing import Literal

from attr_actors.core.splitlog import job_id_from_path
from attr_actors.errors import AttrError
from attr_actors.models import Analysis, Attribution, Value


class ResultRow(Value):
    """The answer for one log, or why there is none."""

    schema_version: Literal[1] = 1
    log_path: str
    error_code: str | None = None
    error: str | None = None
    user: str | None = None
    job_id: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    engine: str | None = None
    result_id: str | None = None
    analysed_at: float | None = None
    scan_s: float = 0.0
    log_bytes: int = 0
    reused: bool = False
    wl_restart_count: int = 0
    attribution: Attribution | None = None
    earlier: tuple[Attribution, ...] = ()


def answered(log_path: str, analysis: Analysis, user: str | None = None, reused: bool = False) -> ResultRow:
    """Return the row of an analysed log."""
    return ResultRow(
        log_path=log_path,
        user=user,
        job_id=job_id_from_path(log_path),
        size=analysis.snapshot.size,
        mtime_ns=analysis.snapshot.mtime_ns,
        engine=analysis.engine,
        result_id=analysis.result_id,
        analysed_at=analysis.analysed_at,
        scan_s=0.0 if reused else round(analysis.scan_s, 6),
        log_bytes=analysis.log_bytes,
        reused=reused,
        wl_restart_count=len(analysis.cycles),
        attribution=analysis.cycles[-1],
        earlier=analysis.cycles[:-1],
    )


def refused(log_path: str, fault: AttrError, user: str | None = None, size: int | None = None, mtime_ns: int | None = None) -> ResultRow:
    """Return the row of a log that has no answer."""
    return ResultRow(
        log_path=log_path,
        error_code=fault.code,
        error=fault.message,
        user=user,
        job_id=job_id_from_path(log_path),
        size=size,
        mtime_ns=mtime_ns,
    )
