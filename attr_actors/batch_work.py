"""What one worker of a batch does with a few logs: take what is known, analyse the rest, make it durable, render rows."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from attr_actors.batch_files import ROOT, FoundLog
from attr_actors.batch_model import Model, Opinions
from attr_actors.core.engine import Engine
from attr_actors.core.paths import admit
from attr_actors.core.result_rows import ResultRow, answered, refused
from attr_actors.core.splitlog import job_id_from_path
from attr_actors.core.summary import Digest, digest
from attr_actors.errors import AnalysisFailed, AttrError, InvalidPath, Unavailable
from attr_actors.handles import AnalyzerHandle, LedgerHandle, pick
from attr_actors.models import Analysis, AnalyzeRequest, EngineConfig, Recording, Requester

logger = logging.getLogger(__name__)

NOT_TEXT = InvalidPath("the path is not valid UTF-8; no answer about it could be stored or sent")


class Answer(NamedTuple):
    """A row as it will stand in the results file, and its digest."""

    row: bytes
    digest: Digest


@dataclass(frozen=True)
class Job:
    """How to work, the same for every log of a batch. ``analyzers`` are the running service's, if there is one.

    ``model``: what a worker elsewhere opens ``opinions`` with; those belong to one event loop.
    """

    config: EngineConfig
    engine: str
    timeout_s: float
    ledger: LedgerHandle | None = None
    analyzers: tuple[AnalyzerHandle, ...] = ()
    record: bool = True
    model: Model | None = None
    opinions: Opinions | None = None


Analysed = tuple[Analysis | AttrError, ...]
Analyse = Callable[[Sequence[str]], Awaitable[Analysed]]


async def answer_logs(job: Job, logs: Sequence[FoundLog], analyse: Analyse) -> list[Answer]:
    """Answer for a few logs. What is new is in the ledger when this returns.

    With ``opinions`` the model is asked about all of them at once (as many as its bounds allow), and this waits for it however
    long it takes: the model is the bottleneck of such a batch, so that a worker which waits with its processor costs nothing.
    """
    known = await _known(job, logs)
    missing = [log for log in logs if log not in known]
    fresh = dict(zip(missing, await analyse([log.path for log in missing]), strict=True)) if missing else {}
    recordings = tuple(Recording(analysis=found, requester=_requester(log)) for log, found in fresh.items() if isinstance(found, Analysis))
    if job.ledger and job.record and recordings:
        await job.ledger.record(recordings)
    found: dict[FoundLog, Analysis | AttrError] = {**known, **fresh}
    if job.opinions:
        found |= await _weigh(job, job.opinions, found)
    return [_answer(log, found[log], log in known) for log in logs]


async def _weigh(job: Job, opinions: Opinions, found: Mapping[FoundLog, Analysis | AttrError]) -> dict[FoundLog, Analysis]:
    """Return the answers that the model was asked about, weighed or degraded; the ledger has them when this returns."""
    asked = {log: rules for log, rules in found.items() if isinstance(rules, Analysis) and opinions.wanted(rules)}
    answers = await asyncio.gather(*(opinions.weigh(rules, _requester(log)) for log, rules in asked.items()))
    weighed = dict(zip(asked, answers, strict=True))
    if job.ledger and job.record and weighed:
        stored = await job.ledger.lookup_many(tuple(answer.snapshot.path for answer in answers))
        # Without names, the entry keeps those that it has. A log that was analysed anew meanwhile keeps its newer answer.
        better = [Recording(analysis=new) for new, old in zip(answers, stored, strict=True) if old and _is_news(new, old)]
        if better:
            await job.ledger.record(tuple(better))
    return weighed


def _is_news(new: Analysis, old: Analysis) -> bool:
    return (new.snapshot, new.engine) == (old.snapshot, old.engine) and new.cycles != old.cycles


async def _known(job: Job, logs: Sequence[FoundLog]) -> dict[FoundLog, Analysis]:
    """Return the answers that the ledger holds or the running service is just finding: two rounds of calls, however many logs.

    An answer that the service finds between the two rounds is found here once more, which costs time only.
    """
    asked = [log for log in logs if log.size is not None]
    if job.ledger is None or not asked:
        return {}
    try:
        stored = zip(asked, await job.ledger.lookup_many(tuple(log.real for log in asked)), strict=True)
        known = {log: found for log, found in stored if found and _is_about(job, log, found)}
        flying = await _in_flight(job, [log for log in asked if log not in known])
    except (AttrError, TimeoutError):  # Analysing here is dearer, and right.
        return {}
    joined = zip(flying, await asyncio.gather(*(_join_flight(job, log.real) for log in flying)), strict=True)
    return known | {log: found for log, found in joined if found and _is_about(job, log, found)}


def _is_about(job: Job, log: FoundLog, found: Analysis) -> bool:
    seen = found.snapshot
    return (found.engine, seen.size, seen.mtime_ns) == (job.engine, log.size, log.mtime_ns)


async def _in_flight(job: Job, logs: Sequence[FoundLog]) -> list[FoundLog]:
    """Return the logs that the running service analyses now; only the analyzers that would are asked."""
    analyzers = {pick(job.analyzers, log.real) for log in logs} if job.analyzers else ()
    flights = await asyncio.gather(*(analyzer.flights() for analyzer in analyzers))
    paths = {flight.path for several in flights for flight in several}
    return [log for log in logs if log.real in paths]


async def _join_flight(job: Job, path: str) -> Analysis | None:
    try:
        async with asyncio.timeout(job.timeout_s):
            return await pick(job.analyzers, path).analyze(AnalyzeRequest(path=path, background=True))
    except (AttrError, TimeoutError):
        return None


def analyse_logs(config: EngineConfig, paths: Sequence[str], timeout_s: float) -> Analysed:
    """Analyse logs one after the other in this process, each within ``timeout_s``; a bad log is an error in the list."""
    found: list[Analysis | AttrError] = []
    while len(found) < len(paths):
        found += _analyse_until_one_hangs(config, paths[len(found) :], timeout_s)
    return tuple(found)


def _analyse_until_one_hangs(config: EngineConfig, paths: Sequence[str], timeout_s: float) -> list[Analysis | AttrError]:
    """Analyse logs in a thread, which is left behind with the log at which a file system hangs: the last of the list."""
    box: queue.SimpleQueue[Analysis | AttrError] = queue.SimpleQueue()
    left_behind = threading.Event()

    def work() -> None:
        for path in paths:
            if left_behind.is_set():
                return
            box.put(_analyse(config, path))

    threading.Thread(target=work, daemon=True, name="analyse").start()
    found: list[Analysis | AttrError] = []
    for path in paths:
        try:
            found.append(box.get(timeout=timeout_s))
        except queue.Empty:
            left_behind.set()
            return [*found, Unavailable(f"reading '{path}' took longer than {timeout_s:g} s")]
    return found


def _analyse(config: EngineConfig, path: str) -> Analysis | AttrError:
    if not path.isprintable() and any("\ud800" <= c <= "\udfff" for c in path):
        return NOT_TEXT
    try:
        return engine_of(config).analyze(admit(path, ROOT))
    except AttrError as exc:
        return exc
    except Exception:
        logger.exception("the analysis of '%s' failed unexpectedly", path)  # Its batch goes on.
        return AnalysisFailed(f"unexpected error in the analysis of '{path}'; the worker's log has the details")


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
