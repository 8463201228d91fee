"""What one worker of a batch does with a few logs: take what is known, analyse the rest, make it durable, render rows."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from attr_actors.batch_files import FoundLog
from attr_actors.core.engine import Engine
from attr_actors.core.paths import admit
from attr_actors.core.result_rows import ResultRow, answered, refused
from attr_actors.core.splitlog import job_id_from_path
from attr_actors.core.summary import Digest, digest
from attr_actors.errors import AnalysisFailed, AttrError, InvalidPath, Unavailable
from attr_actors.handles import AnalyzerHandle, LedgerHandle, pick
from attr_actors.models import Analysis, AnalyzeRequest, EngineConfig, Recording, Requester

NOT_TEXT = InvalidPath("the path is not valid UTF-8; no answer about it could be stored or sent")
ROOT = "/"
"""A batch reads with the rights of its user, like ``analyze``: there is nobody to protect from its own caller."""


class Answer(NamedTuple):
    """A row as it will stand in the results file, and its digest."""

    row: bytes
    digest: Digest


@dataclass(frozen=True)
class Job:
    """How to work, the same for every log of a batch. ``analyzers`` are the running service's, if there is one."""

    config: EngineConfig
    engine: str
    timeout_s: float
    ledger: LedgerHandle | None = None
    analyzers: tuple[AnalyzerHandle, ...] = ()
    record: bool = True


Analysed = tuple[Analysis | AttrError, ...]
Analyse = Callable[[Sequence[str]], Awaitable[Analysed]]


async def answer_logs(job: Job, logs: Sequence[FoundLog], analyse: Analyse) -> list[Answer]:
    """Answer for a few logs. What is new is in the ledger when this returns."""
    known = dict(zip(logs, await asyncio.gather(*(_known(job, log) for log in logs)), strict=True))
    missing = [log for log, found in known.items() if found is None]
    fresh = dict(zip(missing, await analyse([log.path for log in missing]), strict=True)) if missing else {}
    recordings = tuple(Recording(analysis=found, requester=_requester(log)) for log, found in fresh.items() if isinstance(found, Analysis))
    if job.ledger and job.record and recordings:
        await job.ledger.record(recordings)
    return [_answer(log, known[log] or fresh[log], log not in fresh) for log in logs]


async def _known(job: Job, log: FoundLog) -> Analysis | None:
    """Return the answer that the ledger holds or the running service is just finding; None if the log must be analysed."""
    if job.ledger is None or log.size is None:
        return None
    try:
        found = await (_ask_service(job, log.real) if job.analyzers else job.ledger.lookup(log.real))
    except (AttrError, TimeoutError):  # Analysing here is dearer, and right.
        return None
    if found is None or found.engine != job.engine:
        return None
    return found if (found.snapshot.size, found.snapshot.mtime_ns) == (log.size, log.mtime_ns) else None


async def _ask_service(job: Job, path: str) -> Analysis | None:
    analyzer = pick(job.analyzers, path)
    peek = await analyzer.peek(path)
    if peek.status == "in_flight":
        async with asyncio.timeout(job.timeout_s):
            return await analyzer.analyze(AnalyzeRequest(path=path, background=True))
    return peek.analysis


def analyse_logs(config: EngineConfig, paths: Sequence[str], timeout_s: float) -> Analysed:
    """Analyse logs one after the other in this process; a bad log is an error in the list."""
    return tuple(_analyse(config, path, timeout_s) if path.isprintable() or _is_text(path) else NOT_TEXT for path in paths)


def _is_text(path: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in path)


def _analyse(config: EngineConfig, path: str, timeout_s: float) -> Analysis | AttrError:
    """Analyse one log, in a thread that is left behind when a file system hangs."""
    box: queue.SimpleQueue[Analysis | AttrError] = queue.SimpleQueue()

    def work() -> None:
        found: Analysis | AttrError = AnalysisFailed(f"unexpected error in the analysis of '{path}'; the worker's log has the details")
        try:
            found = engine_of(config).analyze(admit(path, ROOT))
        except AttrError as exc:
            found = exc
        finally:
            box.put(found)

    threading.Thread(target=work, daemon=True, name="analyse").start()
    try:
        return box.get(timeout=timeout_s)
    except queue.Empty:
        return Unavailable(f"reading '{path}' took longer than {timeout_s:g} s")


@lru_cache(1)
def engine_of(config: EngineConfig) -> Engine:
    """Return this process's engine."""
    return Engine(config)


def _requester(log: FoundLog) -> Requester:
    return Requester(user=log.user or "unknown", job_id=job_id_from_path(log.path))


def _answer(log: FoundLog, found: Analysis | AttrError, reused: bool) -> Answer:
    row = (
        answered(log.name, found, log.user, reused)
        if isinstance(found, Analysis)
        else refused(log.name, found, log.user, log.size, log.mtime_ns)
    )
    return render_answer(row)


def render_answer(row: ResultRow) -> Answer:
    """Return the row as bytes with its digest."""
    return Answer(row.model_dump_json().encode(), digest(row))
