"""The tracker actor: a thin clock and door around the job book."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import islice

from attr_actors import tracing
from attr_actors.actors.backlog import Backlog
from attr_actors.actors.group_commit import JobWriter
from attr_actors.actors.long_logs import LongLogs
from attr_actors.actors.looks import Looks, Wanted
from attr_actors.actors.own_health import own_health
from attr_actors.core.job import Job
from attr_actors.core.job_counts import count_jobs
from attr_actors.core.job_events import Analyse, Event, Finished, Follow, Forget, Looked, Save, Submitted, Ticked, Warn
from attr_actors.core.job_rows import parse_job, render_job
from attr_actors.core.jobs import JobBook, Limits
from attr_actors.core.looking import Known, Look
from attr_actors.core.splitlog import LogsDirs
from attr_actors.errors import AttrError, NotReadable, Unavailable
from attr_actors.handles import AnalyzerHandle, LedgerHandle, SubmitAnswer
from attr_actors.models import Health, JobMode, JobsPage, JobView, Stats, Submission
from attr_actors.settings import Settings

log = logging.getLogger(__name__)

LOAD_PAGE = 2000
LOOK_BATCH = 64
"""Jobs that one thread looks at before the loop takes the results in: long enough to be cheap, short enough to stay responsive."""
MANY = 10_000
"""From so many loaded jobs on, Python's garbage collector is told to leave them alone: its walk over them would stop the loop for
half a second every now and then, and frozen values form no cycles."""
TOGETHER_S = 0.25
"""Submissions that came together wait for each other's look no longer than this: one slow file must not hold up the rest."""
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
        self._looks = Looks(settings)
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
            analyzers, self._perform, settings.background_analyses_max, settings.compute_timeout, settings.call_timeout_s
        )
        self._long_logs = LongLogs(self._read_on)
        self._counts: Counter[str] = Counter()
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
        await _end(self._opening)  # First: it would start the clock.
        await _end(self._loop)
        await self._long_logs.stop()
        await self._writer.settle_all()
        self._looks.close()

    async def submit(self, submission: Submission) -> JobView:
        """Register or refresh a job; the reply is durable. Starts the analysis for ``terminal``."""
        await self._opened()
        self._book.refuse(submission)
        look = await self._seen(self._wanted(submission))
        self._perform(Submitted(submission, look, self._clock()))
        return await self._durable(submission.path)

    async def submit_many(self, submissions: tuple[Submission, ...]) -> tuple[SubmitAnswer, ...]:
        """Register or refresh many jobs; what is told as done is durable, by one save for all. A slow one is None."""
        await self._opened()
        looks = await self._looks.together([self._wanted(submission) for submission in submissions], TOGETHER_S)
        answers = [self._enter(submission, look) for submission, look in zip(submissions, looks, strict=True)]
        done = [answer.path for answer in answers if isinstance(answer, JobView)]
        try:
            await self._writer.settle(*done)
        except AttrError as exc:
            unsaved = {path for path in done if not self._writer.is_settled(path)}
            return tuple(exc if isinstance(answer, JobView) and answer.path in unsaved else answer for answer in answers)
        return tuple(answers)

    async def finish(self, path: str) -> JobView | None:
        """Return the job with its files freshly listed and mark it terminated; None if untracked.

        Raises Unavailable while its log is not read through: it may name another LOGS_DIR further on.
        """
        await self._opened()
        if (job := self._book.jobs.get(path)) is None:
            return None
        look = await self._seen_through(job)
        self._perform(Finished(path, look, self._clock()))
        return await self._durable(path) if path in self._book.jobs else None

    async def refresh(self, path: str) -> JobView | None:
        """Return the job with its files freshly listed; None if untracked."""
        await self._opened()
        if (job := self._book.jobs.get(path)) is None:
            return None
        look = await self._seen(Wanted.of(job))
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
        lanes = asyncio.Semaphore(self._looks.lanes)
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
        counts = self._book.counts + self._counts + self._backlog.counts
        return Stats(counts={**counts, **count_jobs(self._book, counts), "background.waiting": self._backlog.waiting})

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
        issues += self._looks.issues()
        if len(self._book.jobs) >= self._settings.max_jobs:
            issues.append(f"the job limit is reached: {self._settings.max_jobs}")
        return own_health("tracker", self._settings, self._started_at, issues)

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
        for job in saved:
            self._note_long(job)
        if len(saved) >= MANY:
            gc.collect()
            gc.freeze()
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
        tracing.leave()  # A request may have started the clock; what it does is for all.
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
        wanted = [Wanted.of(job) for path in paths if (job := self._book.jobs.get(path))]
        for path, look in await self._looks.many(wanted, listed):
            if isinstance(look, Look):
                self._perform(Looked(path, look))
            else:
                self._count_fault(path, look)
        await self._writer.settle_all()

    def _wanted(self, submission: Submission) -> Wanted:
        known = self._book.jobs.get(submission.path)
        if known is None:
            return Wanted(submission.path, submission.job_id, Known())
        return Wanted.of(known)._replace(job_id=known.job_id or submission.job_id)

    def _enter(self, submission: Submission, look: Look | AttrError | None) -> SubmitAnswer:
        """Enter one of many in the book. One without a look comes again, alone."""
        if look is None:
            return None
        try:
            self._book.refuse(submission)
            if isinstance(look, AttrError):
                self._count_fault(submission.path, look)
                return look
            self._perform(Submitted(submission, look, self._clock()))
        except AttrError as exc:
            return exc
        return self._book.jobs[submission.path].view()

    async def _seen(self, wanted: Wanted) -> Look:
        try:
            return await self._looks.one(wanted)
        except AttrError as exc:
            self._count_fault(wanted.path, exc)
            raise

    async def _seen_through(self, job: Job) -> Look:
        """Look at a job's log until it is read through, for as long as a quick request may take. Raises Unavailable beyond it."""
        until = time.monotonic() + self._settings.file_timeout_s
        look = await self._seen(Wanted.of(job))
        while look.behind and job.job_id is not None:
            self._perform(Looked(job.path, look))
            if time.monotonic() >= until:
                raise Unavailable(f"'{job.path}' is long and is still being read", 10.0)
            job = self._book.jobs.get(job.path, job)
            look = await self._seen(Wanted.of(job))
        return look

    async def _read_on(self, path: str) -> None:
        """Take one look at a long log, behind all clients; if there is more, storing what it found queues it again."""
        job = self._book.jobs.get(path)
        if job is None or not job.behind:
            return
        try:
            look = await self._looks.one(Wanted.of(job), background=True)
            self._perform(Looked(path, look))
            if not look.behind:  # Until then nothing is lost with a row but some reading.
                await self._writer.settle_all()
        except Exception as exc:  # noqa: BLE001 - One odd log must not hold up the others; the next round looks at it again.
            self._count_fault(path, exc)

    def _note_long(self, job: Job) -> None:
        if job.behind:
            self._long_logs.add(job.path)
        else:
            self._long_logs.discard(job.path)

    def _count_fault(self, path: str, fault: Exception) -> None:
        if isinstance(fault, NotReadable):
            self._counts["permission_errors.file"] += 1
        elif isinstance(fault, Unavailable):
            self._counts["looks.too_slow"] += 1
        elif not isinstance(fault, AttrError):
            self._counts["looks.failed"] += 1
            log.error("'%s' could not be looked at", path, exc_info=fault)

    def _perform(self, event: Event) -> None:
        for effect in self._book.apply(event):
            match effect:
                case Save(job):
                    self._writer.mark(job.path, render_job(job))
                    self._note_long(job)
                case Forget(path):
                    self._long_logs.discard(path)
                    self._writer.mark(path, None)
                case Analyse():
                    self._backlog.add(effect)
                case Follow(path):
                    self._backlog.follow(path)
                case Warn(message):
                    log.warning("%s", message)

    async def _durable(self, path: str) -> JobView:
        view = self._book.jobs[path].view()
        await self._writer.settle(path)
        return view


async def _slices(paths: list[str], size: int) -> AsyncIterator[list[str]]:
    """Give the list in parts and let others run in between."""
    for i in range(0, len(paths), size):
        yield paths[i : i + size]
        await asyncio.sleep(0)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
