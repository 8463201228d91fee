"""The tracker actor: a thin clock and door around the job book."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count, islice
from typing import TypeVar

import attr_actors
from attr_actors.actors.backlog import Backlog
from attr_actors.actors.group_commit import JobWriter
from attr_actors.core.job_rows import parse_job, render_job
from attr_actors.core.jobs import Analyse, Analysed, Event, Finished, Forget, Job, JobBook, Limits, Looked, Save, Submitted, Ticked, Warn
from attr_actors.core.looking import Bounds, Known, Look, take_look
from attr_actors.core.paths import LogPath
from attr_actors.core.splitlog import LogsDirs
from attr_actors.errors import AttrError, NotReadable, Unavailable
from attr_actors.handles import AnalyzerHandle, LedgerHandle
from attr_actors.models import Health, JobMode, JobsPage, JobView, Stats, Submission
from attr_actors.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

LOAD_PAGE = 2000
LOOK_BATCH = 64
"""Jobs that one thread looks at before the loop takes the results in: long enough to be cheap, short enough to stay responsive."""
SLICE = 2000
"""Jobs that the loop goes through before it answers others: some milliseconds."""


class Tracker:
    """Exists because jobs need one clock and one writer: every job's mode, files and life are decided in one place.

    Starting is recovering: the jobs are loaded from the ledger, and what they owe is taken up again. Looks at files
    run in threads, so that one slow file system does not hold up other jobs.
    """

    def __init__(
        self, settings: Settings, ledger: LedgerHandle, analyzers: Sequence[AnalyzerHandle], clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._started_at = clock()
        self._bounds = Bounds(settings.marker_head_bytes, settings.logs_dir_files_max)
        limits = Limits(
            settings.max_jobs,
            settings.pending_bytes,
            settings.pending_age_max_s,
            settings.terminated_age_max_s,
            settings.job_age_max_s,
        )
        self._book = JobBook(limits)
        self._writer = JobWriter(ledger, settings.call_timeout_s)
        self._backlog = Backlog(
            analyzers, self._report, settings.background_analyses_max, settings.compute_timeout, settings.call_timeout_s
        )
        self._doors = ThreadPoolExecutor(settings.tracker_threads, "tracker-look")
        self._rounds = ThreadPoolExecutor(max(1, settings.tracker_threads // 2), "tracker-poll")
        self._counts: Counter[str] = Counter()
        self._look_numbers = count(1)
        self._poll_failed: str | None = None
        self._opening: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        with suppress(RuntimeError):  # Ray makes the actor on its loop: a restarted tracker goes on before anybody asks.
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def start(self) -> None:
        """Load the jobs and start the clock; does nothing the second time. Raises Unavailable."""
        await self._opened()

    async def stop(self) -> None:
        """Stop the clock and write what is left (an orderly stop; nothing depends on it)."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        await self._writer.settle_all()
        self._doors.shutdown(wait=False)
        self._rounds.shutdown(wait=False)

    async def submit(self, submission: Submission) -> JobView:
        """Register or refresh a job; the reply is durable. Starts the analysis for ``terminal``."""
        await self._opened()
        self._book.refuse(submission)
        known = self._book.jobs.get(submission.path)
        look = await self._look(submission.path, (known and known.job_id) or submission.job_id)
        self._perform(Submitted(submission, look, self._clock()))
        return await self._durable(submission.path)

    async def finish(self, path: str) -> JobView | None:
        """Return the job with its files freshly listed and mark it terminated; None if untracked."""
        await self._opened()
        if (job := self._book.jobs.get(path)) is None:
            return None
        look = await self._look(path, job.job_id)
        self._perform(Finished(path, look, self._clock()))
        return await self._durable(path) if path in self._book.jobs else None

    async def refresh(self, path: str) -> JobView | None:
        """Return the job with its files freshly listed; None if untracked."""
        await self._opened()
        if (job := self._book.jobs.get(path)) is None:
            return None
        look = await self._look(path, job.job_id)
        self._perform(Looked(path, look))
        return await self._durable(path) if path in self._book.jobs else None

    async def find(self, path: str) -> JobView | None:
        """Return the job as it is known; None if untracked."""
        await self._opened()
        job = self._book.jobs.get(path)
        return job.view() if job else None

    async def jobs(self, mode: JobMode | None, limit: int, offset: int) -> JobsPage:
        """Return one page of jobs, newest first."""
        await self._opened()
        newest = (j for j in reversed(self._book.jobs.values()) if mode is None or j.mode is mode)
        page = tuple(j.view() for j in islice(newest, offset, offset + limit))
        return JobsPage(total_counts={m: self._book.modes[m] for m in JobMode}, jobs=page)

    async def poll(self) -> None:
        """Make one round: look at the jobs that are due, take up what is owed, forget what is old."""
        await self._opened()
        everybody = list(self._book.jobs)
        due = [path async for part in _slices(everybody, SLICE) for path in part if self._book.is_due(path, self._clock())]
        due.sort(key=self._logs_dir_of)
        listed = LogsDirs()
        lanes = asyncio.Semaphore(max(1, self._settings.tracker_threads // 2))
        async with asyncio.TaskGroup() as group:
            async for batch in _slices(due, LOOK_BATCH):
                await lanes.acquire()
                group.create_task(self._poll_batch(batch, listed)).add_done_callback(lambda _: lanes.release())
        async for part in _slices(everybody, SLICE):
            self._perform(Ticked(self._clock(), tuple(part)))
        await self._writer.settle_all()
        self._counts["polls.made"] += 1

    async def stats(self) -> Stats:
        """Return counters of submissions, modes, deferrals, permission errors and cleanup."""
        book, jobs = self._book, self._book.jobs.values()
        split = [j for j in jobs if j.mode is JobMode.SPLITLOG]
        counts = Counter(book.counts) + self._counts + self._backlog.counts
        totals = {
            "submissions.total": counts["submissions.new"] + counts["submissions.repeated"],
            "detection.total_splitlog": counts["detection.total_splitlog"],
            "detection.total_single": counts["detection.total_single"],
            "detection.pending": book.modes[JobMode.PENDING],
            "detection.jobs_expired": counts["cleanup.pending"],
            "deferred.total_splitlog": counts["deferred.total_splitlog"],
            "deferred.total_single": counts["deferred.total_single"],
            "permission_errors.total": counts["permission_errors.logs_dir"] + counts["permission_errors.file"],
            "permission_errors.logs_dir": counts["permission_errors.logs_dir"],
            "permission_errors.file": counts["permission_errors.file"],
            "splitlog.jobs": len(split),
            "splitlog.jobs_terminated": sum(j.terminated_at is not None for j in split),
            "splitlog.jobs_cleaned": counts["cleanup.terminated"] + counts["cleanup.aged"],
            "splitlog.files.tracked": sum(len(j.files) for j in split),
            "splitlog.files.analyzed": sum(f.analysed is not None for j in split for f in j.files),
            "splitlog.sched_restarts": sum(j.markers.starts for j in split),
            "background.waiting": self._backlog.waiting,
            "jobs.total": len(jobs),
            "jobs.max": self._settings.max_jobs,
        }
        return Stats(counts={**counts, **totals})

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues; asking also starts a tracker that has been restarted."""
        issues = []
        try:
            await self._opened()
        except AttrError as exc:
            issues.append(f"the jobs are not loaded yet: {exc.message}")
        if self._writer.failed:
            issues.append("jobs could not be saved")
        if self._poll_failed:
            issues.append(f"the last round over the jobs failed: {self._poll_failed}")
        if len(self._book.jobs) >= self._settings.max_jobs:
            issues.append(f"the job limit is reached: {self._settings.max_jobs}")
        return Health(
            name="tracker",
            version=attr_actors.__version__,
            fingerprint=self._settings.fingerprint(),
            pid=os.getpid(),
            started_at=self._started_at,
            issues=tuple(issues),
        )

    async def _opened(self) -> None:
        """Wait for the jobs to be loaded. A failed load is tried again by the next call."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._open())
        if not self._opening.done():
            try:
                async with asyncio.timeout(self._settings.call_timeout_s):
                    await asyncio.shield(self._opening)
            except TimeoutError:
                raise Unavailable("the tracker is still loading its jobs", 5) from None

    async def _open(self) -> None:
        book = JobBook(self._book.limits)
        saved: list[Job] = []
        after = ""
        while rows := await self._ledger.load_jobs(after, LOAD_PAGE):
            page = [job for row in rows if (job := self._parse(row))]
            saved += page
            after = page[-1].path if page else after
            if len(rows) < LOAD_PAGE or not page:
                break
        for job in sorted(saved, key=lambda j: j.created_at):
            book.restore(job)
        self._book = book
        self._loop = asyncio.create_task(self._run())

    def _parse(self, row: str) -> Job | None:
        try:
            return parse_job(row)
        except ValueError as exc:
            self._counts["jobs.unreadable_rows"] += 1
            log.error("a saved job cannot be read and is left alone: %s", exc)
            return None

    async def _run(self) -> None:
        """The clock. The first round comes at once: it takes up what a former process owed."""
        while True:
            try:
                await self.poll()
                self._poll_failed = None
            except Exception as exc:  # One bad round must not stop the clock.
                self._poll_failed = type(exc).__name__
                self._counts["polls.failed"] += 1
                log.exception("a round over the jobs failed")
            await asyncio.sleep(self._settings.poll_interval_s * random.uniform(0.9, 1.1))

    def _logs_dir_of(self, path: str) -> str:
        job = self._book.jobs.get(path)
        return (job and job.logs_dir) or ""

    async def _poll_batch(self, paths: list[str], listed: LogsDirs) -> None:
        wanted = [(p, job.job_id, job.known) for p in paths if (job := self._book.jobs.get(p))]
        work = (wanted, next(self._look_numbers), listed)
        looks = await asyncio.get_running_loop().run_in_executor(self._rounds, self._look_at_all, *work)
        for path, look in looks:
            if isinstance(look, AttrError):
                self._counts["permission_errors.file"] += isinstance(look, NotReadable)
            else:
                self._perform(Looked(path, look))
        await self._writer.settle_all()

    def _look_at_all(
        self, wanted: Iterable[tuple[str, str | None, Known]], number: int, listed: LogsDirs
    ) -> list[tuple[str, Look | AttrError]]:
        root = self._settings.allowed_root
        found: list[tuple[str, Look | AttrError]] = []
        for path, job_id, known in wanted:
            try:
                found.append((path, take_look(LogPath(path, root), job_id, known, self._bounds, number, listed)))
            except AttrError as exc:
                found.append((path, exc))
        return found

    async def _look(self, path: str, job_id: str | None) -> Look:
        job = self._book.jobs.get(path)
        known = job.known if job else Known()
        work = (LogPath(path, self._settings.allowed_root), job_id, known, self._bounds, next(self._look_numbers))
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._doors, take_look, *work)
        except TimeoutError:
            raise Unavailable("the file system did not answer in time", 10) from None
        except NotReadable:
            self._counts["permission_errors.file"] += 1
            raise

    def _perform(self, event: Event) -> None:
        for effect in self._book.apply(event):
            match effect:
                case Save(job):
                    self._writer.mark(job.path, render_job(job))
                case Forget(path):
                    self._writer.mark(path, None)
                case Analyse():
                    self._backlog.add(effect)
                case Warn(message):
                    log.warning("%s", message)

    def _report(self, event: Analysed) -> None:
        self._perform(event)

    async def _durable(self, path: str) -> JobView:
        view = self._book.jobs[path].view()
        await self._writer.settle(path)
        return view


async def _slices(paths: list[str], size: int) -> AsyncIterator[list[str]]:
    """Give the list in parts and let others run in between."""
    for i in range(0, len(paths), size):
        yield paths[i : i + size]
        await asyncio.sleep(0)
