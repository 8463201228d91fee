"""The data flows of the service, readable from top to bottom. Knows no HTTP and no Ray; handles arrive as arguments."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from attr_actors.core.access import narrower_root
from attr_actors.core.paths import LogPath, admit, check_not_empty, check_readable, is_inside, open_log, stat_log
from attr_actors.core.reading import Deadline
from attr_actors.core.splitlog import cycle_id_from_path, job_id_from_path, select_files
from attr_actors.core.validity import is_valid
from attr_actors.errors import AnalysisFailed, AttrError, OutsideRoot, RequestError
from attr_actors.file_threads import FileThreads
from attr_actors.handles import Actors, pick
from attr_actors.models import Analysis, AnalyzeRequest, JobMode, JobView, Peek, Requester, Submission
from attr_actors.settings import Settings
from serve_app.bodies import (
    FlightBody,
    InflightReply,
    JobBody,
    JobGroup,
    JobsReply,
    ResultReply,
    SubmitBody,
    SubmitReply,
)
from serve_app.replies import completed_reply, error_reply, splitlog_reply, timeout_reply, unfinished_reply
from serve_app.root_watch import RootWatch
from serve_app.submissions import Submissions

T = TypeVar("T")

PREVIEW_BYTES = 4096
"""What GET /print shows, as the predecessor did."""

FILES_AT_A_TIME = 16
"""Log files of one ``all_files`` request that are asked for together, so that one client cannot fill the queues."""

FILE_REQUESTS_MAX = 1000
"""Requests of one replica that may wait for one file system; more are refused."""

READ_THREADS = 4
"""Readings far into logs that one replica does at a time and mount; they have threads of their own, so that quick looks go on."""

READS_WAITING_MAX = 100
"""Readings of one replica that may wait for one file system; more are refused."""

READ_GRACE_S = 1.0
"""What a reading has to notice its deadline, s, before its file system counts as hung."""


@dataclass(frozen=True)
class ResultQuery:
    """The parameters of GET /logs."""

    log_path: str
    wl_restart: int | None = None
    wait: bool = True
    timeout_s: float | None = None
    file: str | None = None
    all_files: bool = False
    root: str | None = None


class AttributionService:
    """What the HTTP routes do. One per replica; holds nothing that another replica would miss."""

    def __init__(self, settings: Settings, actors: Actors) -> None:
        self._settings = settings
        self._tracker = actors.tracker
        self._analyzers = actors.analyzers
        self._files = FileThreads("files", settings.file_threads, FILE_REQUESTS_MAX)
        self._reads = FileThreads("reads", READ_THREADS, READS_WAITING_MAX)
        self._submissions = Submissions(actors.tracker, self._files, settings.file_timeout_s)
        self.root = RootWatch(settings.allowed_root, self._files, settings.file_timeout_s)

    def gauges(self) -> dict[str, float]:
        """Return what the threads on files are held up by, for the figures."""
        return {
            "files.threads_stuck": float(self._files.stuck + self._reads.stuck),
            "files.mounts_hung": float(len(self._files.hung_mounts())),
        }

    def issues(self) -> list[str]:
        """Return what an operator must mend."""
        return [f"the file system at '{point}' does not answer" for point in self._files.hung_mounts()] + self.root.issues()

    async def submit(self, body: SubmitBody, root: str | None = None) -> SubmitReply:
        """Register a job (POST /logs). Durable when it returns. ``root`` confines the caller further."""
        job = await self._submissions.submit(body.log_path, lambda: self._announce(body, self._root(root)))
        return SubmitReply(
            normalized_path=job.path,
            mode=job.mode,
            logs_dir=job.logs_dir,
            sched_restarts=job.sched_restarts,
            files_analyzed=job.files_analyzed,
        )

    async def result(self, query: ResultQuery) -> ResultReply:
        """Answer why a job died (GET /logs)."""
        log = await self._file(query.log_path, lambda: admit(query.log_path, self._root(query.root)))
        job = await self._job(log.path, query)
        if job is None or job.mode is not JobMode.SPLITLOG:
            select_files((log.path,), True, query.file, False)
            return await self._answer(log, job, query)
        if not all(is_inside(path, log.root) for path in job.log_files):
            raise OutsideRoot("the LOGS_DIR of this job is not inside the caller's root")  # Names nothing that lies there.
        logs = [LogPath(path, log.root) for path in select_files(job.log_files, job.terminated, query.file, query.all_files)]
        if not query.all_files:
            reply = splitlog_reply(await self._answer(logs[-1], job, query), job, logs[-1].path)
            return reply if query.file else reply.model_copy(update={"basis": None})  # The next file changes which one is the last.
        replies = await self._answers(logs, job, query)
        return replies[-1].model_copy(update={"files": replies, "basis": None})

    async def _job(self, path: str, query: ResultQuery) -> JobView | None:
        """Return the job with its present files. The first GET that waits for the job's end ends it."""
        job = await self._tracker.find(path)
        if job is None or (job.mode is JobMode.SINGLE and job.terminated):
            return job
        final = query.wait and query.file is None
        return await (self._tracker.finish(path) if final else self._tracker.refresh(path))

    async def _answers(self, logs: list[LogPath], job: JobView, query: ResultQuery) -> list[ResultReply]:
        """Answer for several files of a job. The last one counts: only its error is the request's error."""
        lanes = asyncio.Semaphore(FILES_AT_A_TIME)

        async def answer(log: LogPath) -> ResultReply:
            async with lanes:
                try:
                    return splitlog_reply(await self._answer(log, job, query), job, log.path)
                except (RequestError, AnalysisFailed) as exc:
                    if log is logs[-1]:
                        raise
                    return splitlog_reply(error_reply(exc), job, log.path)

        return list(await asyncio.gather(*(answer(log) for log in logs)))

    async def _answer(self, log: LogPath, job: JobView | None, query: ResultQuery) -> ResultReply:
        if not query.wait:
            return await self._known(log, query)
        analysis = await self._analysis(AnalyzeRequest(path=log.path, requester=requester(log.path, job)), query.timeout_s)
        if isinstance(analysis, Peek):
            return timeout_reply(analysis, query.wl_restart, self._limit(query.timeout_s))
        return completed_reply(analysis, query.wl_restart)

    async def still_stands(self, basis: Analysis) -> bool:
        """Tell by the ledger's rule whether an answer may be served again, looking at its log."""
        settings, path = self._settings, basis.snapshot.path
        try:
            seen = await self._file(path, lambda: stat_log(admit(path, settings.allowed_root)))
        except AttrError:
            return False
        return is_valid(basis, time.time(), settings.cache_grace_period_seconds, settings.entry_age_max_s, seen.st_size, seen.st_mtime_ns)

    async def preview(self, log_path: str, root: str | None = None) -> bytes:
        """Return the first 4096 bytes of a log, cut at a character boundary (GET /print)."""
        return await self._file(log_path, lambda: _read_head(admit(log_path, self._root(root))))

    async def admit(self, log_path: str, root: str | None) -> LogPath:
        """Return a log that the caller may read. ``root`` confines the caller further."""
        return await self._file(log_path, lambda: admit(log_path, self._root(root)))

    async def read(self, log_path: str, root: str | None, work: Callable[[LogPath, Deadline], T]) -> T:
        """Read far into a log that the caller may read. The thread ends soon after its time is over or the caller gave up.

        Raises Unavailable after ``file_timeout_s`` or when the mount hangs, Overloaded when too many wait.
        """
        timeout_s = self._settings.file_timeout_s
        deadline = Deadline(timeout_s)
        try:
            return await self._reads.run(log_path, lambda: work(admit(log_path, self._root(root)), deadline), timeout_s + READ_GRACE_S)
        finally:
            deadline.give_up()

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

    async def _known(self, log: LogPath, query: ResultQuery) -> ResultReply:
        peek = await pick(self._analyzers, log.path).peek(log.path)
        if peek.status == "completed" and peek.analysis:
            return completed_reply(peek.analysis, query.wl_restart)
        await self._file(log.path, lambda: check_not_empty(log))
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

    def _root(self, callers: str | None) -> str:
        return narrower_root(callers, self._settings.allowed_root) if callers else self._settings.allowed_root

    def _announce(self, body: SubmitBody, root: str) -> Submission:
        """Check the path of a POST: the file may not exist yet, because schedulers announce a job before its output."""
        log = admit(body.log_path, root)
        if os.path.lexists(log.path) or not os.path.isdir(os.path.dirname(log.path)):
            check_readable(log)  # Raises the error that names what is missing.
        return Submission(path=log.path, user=body.user, job_id=body.job_id, cycle_id=body.cycle_id, intent=body.analysis_intent)

    async def _file(self, path: str, work: Callable[[], T]) -> T:
        """Touch the file system in a thread, with a limit: a hung mount holds up its own requests only."""
        return await self._files.run(path, work, self._settings.file_timeout_s)


def requester(path: str, job: JobView | None) -> Requester:
    """Name for whom a log is analysed: its job, else what the path tells."""
    if job is None:
        return Requester(job_id=job_id_from_path(path), cycle_id=cycle_id_from_path(path))
    cycle_id = job.cycle_id if path == job.path else cycle_id_from_path(path)
    return Requester(user=job.user, job_id=job.job_id or job_id_from_path(path), cycle_id=cycle_id)


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
