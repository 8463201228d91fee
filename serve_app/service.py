"""The data flows of the service, readable from top to bottom. Knows no HTTP and no Ray; handles arrive as arguments."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from attr_actors.core.paths import LogPath, admit, check_readable, open_log
from attr_actors.core.splitlog import job_id_from_path
from attr_actors.errors import AttrError, BusyError, EmptyFile, Unavailable
from attr_actors.handles import AnalyzerHandle, LedgerHandle, NotifierHandle, TrackerHandle, pick
from attr_actors.models import Analysis, AnalyzeRequest, Health, JobMode, JobView, Peek, Requester, Submission
from attr_actors.settings import Settings
from serve_app.bodies import (
    FlightBody,
    HealthReply,
    InflightReply,
    JobBody,
    JobGroup,
    JobsReply,
    ResultReply,
    SubmitBody,
    SubmitReply,
)
from serve_app.replies import completed_reply, timeout_reply, unfinished_reply

T = TypeVar("T")

PREVIEW_BYTES = 4096
"""What GET /print shows, as the predecessor did."""

HEALTH_AGE_MAX_S = 1.0
"""Health is asked of the actors at most this often per replica: load balancers probe more often than it changes."""


@dataclass(frozen=True)
class ResultQuery:
    """The parameters of GET /logs."""

    log_path: str
    wl_restart: int | None = None
    wait: bool = True
    timeout_s: float | None = None


class AttributionService:
    """What the HTTP routes do. One per replica; holds nothing that another replica would miss."""

    def __init__(
        self,
        settings: Settings,
        ledger: LedgerHandle,
        tracker: TrackerHandle,
        analyzers: tuple[AnalyzerHandle, ...],
        notifiers: tuple[NotifierHandle, ...] = (),
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._tracker = tracker
        self._analyzers = analyzers
        self._notifiers = notifiers
        self._files = ThreadPoolExecutor(16, thread_name_prefix="files")
        self._health: tuple[float, HealthReply] | None = None
        self.requests: Counter[str] = Counter()

    async def submit(self, body: SubmitBody) -> SubmitReply:
        """Register a job (POST /logs). Durable when it returns."""
        log = await self._file(lambda: self._announce(body.log_path))
        job = await self._tracker.submit(
            Submission(path=log.path, user=body.user, job_id=body.job_id, cycle_id=body.cycle_id, intent=body.analysis_intent)
        )
        return SubmitReply(
            normalized_path=job.path,
            mode=job.mode,
            logs_dir=job.logs_dir,
            sched_restarts=job.sched_restarts,
            files_analyzed=job.files_analyzed,
        )

    async def result(self, query: ResultQuery) -> ResultReply:
        """Answer why a job died (GET /logs)."""
        log = await self._file(lambda: admit(query.log_path, self._settings.allowed_root))
        job = await self._tracker.find(log.path)
        if not query.wait:
            return await self._known(log, query)
        analysis = await self._analysis(AnalyzeRequest(path=log.path, requester=requester(log.path, job)), query.timeout_s)
        if isinstance(analysis, Peek):
            return timeout_reply(analysis, query.wl_restart, self._limit(query.timeout_s))
        return completed_reply(analysis, query.wl_restart)

    async def preview(self, log_path: str) -> bytes:
        """Return the first 4096 bytes of a log, cut at a character boundary (GET /print)."""
        return await self._file(lambda: _read_head(admit(log_path, self._settings.allowed_root)))

    async def jobs(self, mode: JobMode | None, limit: int, offset: int) -> JobsReply:
        """Return one page of tracked jobs (GET /jobs)."""
        page = await self._tracker.jobs(mode, limit, offset)
        bodies = [JobBody.of(job) for job in page.jobs]
        groups = {m: JobGroup(count=sum(b.mode == m for b in bodies), jobs=[b for b in bodies if b.mode == m]) for m in JobMode}
        shown: dict[str, str | int] = {"limit": limit, "offset": offset} | ({"mode": mode.value} if mode else {})
        return JobsReply(
            total_counts=page.total_counts,
            filter=shown,
            returned=len(bodies),
            jobs=bodies,
            pending=groups[JobMode.PENDING],
            single=groups[JobMode.SINGLE],
            splitlog=groups[JobMode.SPLITLOG],
        )

    async def inflight(self) -> InflightReply:
        """Return the analyses under way on all analyzers (GET /inflight)."""
        flights = [FlightBody.of(f) for group in await asyncio.gather(*(a.flights() for a in self._analyzers)) for f in group]
        return InflightReply(count=len(flights), paths=[f.path for f in flights], entries=flights)

    async def counters(self) -> dict[str, float]:
        """Return the summed counters of all actors by dotted name (the source of GET /stats)."""
        parts = (self._ledger.stats(), self._tracker.stats(), *(a.stats() for a in self._analyzers), *(n.stats() for n in self._notifiers))
        total: Counter[str] = Counter()
        for stats in await asyncio.gather(*parts):
            total.update(stats.counts)
        return dict(total) | self._processes(await self._ask_actors())

    def _processes(self, answers: list[Health]) -> dict[str, float]:
        """Return process id and uptime per actor, and this replica's."""
        shown = {"actors.replica.pid": float(os.getpid())}
        for answer in answers:
            shown[f"actors.{answer.name}.pid"] = answer.pid
            shown[f"actors.{answer.name}.uptime_s"] = time.time() - answer.started_at if answer.pid else 0.0
        return shown

    async def health(self) -> HealthReply:
        """Return the state of the service and its actors (GET /healthz), at most a second old."""
        if self._health is None or time.monotonic() - self._health[0] > HEALTH_AGE_MAX_S:
            self._health = (time.monotonic(), await self._ask_health())
        return self._health[1]

    async def _ask_health(self) -> HealthReply:
        answers = await self._ask_actors()
        issues = [f"{a.name}: {issue}" for a in answers for issue in a.issues]
        if any(a.failing for a in answers):
            return HealthReply(status="fail", issues=issues)
        return HealthReply(status="degraded" if issues else "ok", issues=issues)

    async def _ask_actors(self) -> list[Health]:
        named: list[tuple[str, LedgerHandle | TrackerHandle | AnalyzerHandle | NotifierHandle]] = [
            ("ledger", self._ledger),
            ("tracker", self._tracker),
        ]
        named += [(f"analyzer-{i}", a) for i, a in enumerate(self._analyzers)]
        named += [(f"notifier-{sink}", n) for sink, n in zip(self._settings.sink_names, self._notifiers, strict=False)]
        return await asyncio.gather(*(_health_of(name, handle) for name, handle in named))

    async def _known(self, log: LogPath, query: ResultQuery) -> ResultReply:
        peek = await pick(self._analyzers, log.path).peek(log.path)
        if peek.status == "completed" and peek.analysis:
            return completed_reply(peek.analysis, query.wl_restart)
        await self._file(lambda: _check_not_empty(log))
        return unfinished_reply(peek)

    async def _analysis(self, request: AnalyzeRequest, timeout_s: float | None) -> Analysis | Peek:
        analyzer = pick(self._analyzers, request.path)
        try:
            async with asyncio.timeout(self._limit(timeout_s)):
                return await analyzer.analyze(request)
        except TimeoutError:  # The flight goes on; a later GET finds its result.
            return await analyzer.peek(request.path)

    def _limit(self, timeout_s: float | None) -> float:
        return min(timeout_s or self._settings.compute_timeout, self._settings.compute_timeout)

    def _announce(self, log_path: str) -> LogPath:
        """Check a path of a POST: the file may not exist yet, because schedulers announce a job before its output."""
        log = admit(log_path, self._settings.allowed_root)
        if os.path.lexists(log.path):
            check_readable(log)
        elif not os.path.isdir(os.path.dirname(log.path)):
            check_readable(log)  # Raises the error that names what is missing.
        return log

    async def _file(self, work: Callable[[], T]) -> T:
        """Touch the file system in a thread, with a limit: a hung mount stalls only its own requests."""
        try:
            async with asyncio.timeout(self._settings.file_timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._files, work)
        except TimeoutError:
            raise Unavailable(f"the file system did not answer within {self._settings.file_timeout_s:g} s", 10.0) from None


def requester(path: str, job: JobView | None) -> Requester:
    """Name for whom a log is analysed: its job, else what the path tells."""
    if job:
        return Requester(user=job.user, job_id=job.job_id or job_id_from_path(path), cycle_id=job.cycle_id)
    return Requester(job_id=job_id_from_path(path))


async def _health_of(name: str, handle: LedgerHandle | TrackerHandle | AnalyzerHandle | NotifierHandle) -> Health:
    try:
        return await handle.health()
    except BusyError as exc:
        down = Health(name=name, version="", fingerprint="", pid=0, started_at=0, issues=(exc.message,), failing=name == "ledger")
        return down


def _check_not_empty(log: LogPath) -> None:
    if check_readable(log).st_size == 0:
        raise EmptyFile(f"log file is empty: '{log.path}'")


def _read_head(log: LogPath) -> bytes:
    fd = open_log(log)
    try:
        head = os.read(fd, PREVIEW_BYTES)
    except OSError as exc:
        raise AttrError(f"cannot read '{log.path}': {exc.strerror}") from None
    finally:
        os.close(fd)
    return head.decode("utf-8", "ignore").encode() if _is_cut(head) else head


def _is_cut(head: bytes) -> bool:
    """Tell whether the last character of a full preview is incomplete."""
    return len(head) == PREVIEW_BYTES and any(b >= 0x80 for b in head[-4:])
