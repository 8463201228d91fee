"""The job book: every tracked job and its life. Events go in, effects come out; nothing here reads a file or a clock.

Hold in mind: the mode follows from what a look found (``layout()``) through one table (``NEXT_MODE``), and what is left
to do follows from the job alone (``owed()``). So a tracker that dies at any line goes on from the saved jobs.

    pending ──> single ──> splitlog        a mode never goes back; a requeued or re-submitted job keeps it
       └─────────────────────^             terminated: ``terminal`` or a final GET; gone: older than its age limit
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from attr_actors.core.job import NEXT_MODE, Job, Layout, LogFile, layout, live_file, owed
from attr_actors.core.job_events import Analyse, Analysed, Effect, Event, Finished, Follow, Forget, Looked, Save, Submitted, Ticked, Warn
from attr_actors.core.looking import Look
from attr_actors.core.markers import Markers
from attr_actors.errors import InvalidParameter, JobLimitReached
from attr_actors.models import Intent, JobMode, Submission


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the settings: a count, bytes and seconds."""

    max_jobs: int
    pending_bytes: int
    pending_age_max_s: float
    terminated_age_max_s: float
    job_age_max_s: float


class JobBook:
    """All tracked jobs in order of their creation."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.jobs: dict[str, Job] = {}
        self.modes: Counter[JobMode] = Counter()
        self.counts: Counter[str] = Counter()

    def restore(self, job: Job) -> None:
        """Take in a saved job; the caller restores in order of creation."""
        self._put(job)

    def refuse(self, submission: Submission) -> None:
        """Raise what a submission is refused with, before any file is touched: JobLimitReached, InvalidParameter."""
        job = self.jobs.get(submission.path)
        if job is None and len(self.jobs) >= self.limits.max_jobs:
            self.counts["submissions.refused"] += 1
            raise JobLimitReached(f"{self.limits.max_jobs} jobs are tracked already; retry later or raise MAX_JOBS", 60)
        if job and None not in (submission.cycle_id, job.cycle_id) and submission.cycle_id != job.cycle_id:
            raise InvalidParameter(f"cycle_id={submission.cycle_id} conflicts with the earlier cycle_id={job.cycle_id} of this log")

    def apply(self, event: Event) -> tuple[Effect, ...]:
        """Take in an event and return what is to be done about it. Raises what ``refuse()`` and a LOGS_DIR's fault raise."""
        match event:
            case Submitted():
                return tuple(self._submitted(event))
            case Looked():
                return tuple(self._looked(event))
            case Finished():
                return tuple(self._finished(event))
            case Analysed():
                return tuple(self._analysed(event))
            case Ticked():
                return tuple(self._ticked(event))

    def is_due(self, path: str, at: float) -> bool:
        """Tell whether the clock must look at a job's files.

        Not at a single log that was read through and that nobody wants followed, nor at what is done and not yet old enough to go.
        """
        job = self.jobs.get(path)
        if job is None:
            return False
        if job.behind:
            return True
        if job.terminated_at is None:
            return job.mode is not JobMode.SINGLE or job.progressive
        return job.mode is JobMode.PENDING or at >= self._expires_at(job) or bool(owed(job))

    def _submitted(self, event: Submitted) -> Iterator[Effect]:
        self.refuse(event.submission)
        given, terminal = event.submission, event.submission.intent is Intent.TERMINAL
        old = self.jobs.get(given.path)
        job_id = old.job_id if old and old.job_id else given.job_id
        job = old or Job(given.path, given.user, job_id, given.cycle_id, event.at)
        if old and given.job_id not in (None, old.job_id) and old.job_id:
            self.counts["submissions.job_id_conflicts"] += 1
            yield Warn(f"'{given.path}' was submitted with job_id '{given.job_id}'; it keeps its first one, '{old.job_id}'")
        job = replace(
            job,
            user=given.user if given.user != "unknown" else job.user,
            job_id=job_id,
            cycle_id=given.cycle_id if job.cycle_id is None else job.cycle_id,
            terminated_at=(job.terminated_at or event.at) if terminal else None,
            progressive=given.intent is Intent.PROGRESSIVE,
        )
        job = self._see(job, event.look, final=terminal)
        self.counts["submissions.new" if old is None else "submissions.repeated"] += 1
        yield from self._store(old, job, urgent=terminal)

    def _looked(self, event: Looked) -> Iterator[Effect]:
        old = self.jobs.get(event.path)
        if old is None:
            return
        if event.look.fault is not None:
            self._count_fault()
            return
        job = self._see(old, event.look, final=old.terminated_at is not None)
        yield from self._store(old, job, urgent=False)

    def _finished(self, event: Finished) -> Iterator[Effect]:
        old = self.jobs.get(event.path)
        if old is None:
            return
        job = self._see(old, event.look, final=True)
        if job.mode is not JobMode.PENDING:
            job = replace(job, terminated_at=job.terminated_at or event.at)
        yield from self._store(old, job, urgent=True)

    def _analysed(self, event: Analysed) -> Iterator[Effect]:
        old = self.jobs.get(event.path)
        if old is None:
            return
        files = tuple(replace(f, analysed=event.content) if f.name == event.name else f for f in old.files)
        job = replace(old, files=files)
        if job != old:
            self._put(job)
            yield Save(job)

    def _ticked(self, event: Ticked) -> Iterator[Effect]:
        for path in event.paths:
            job = self.jobs.get(path)
            if job is None or event.at < self._expires_at(job):
                continue
            kind = "terminated" if job.terminated_at is not None else "pending" if job.mode is JobMode.PENDING else "aged"
            self.counts[f"cleanup.{kind}"] += 1
            self._drop(path)
            yield Forget(path)

    def _expires_at(self, job: Job) -> float:
        """Return when a job is forgotten. A terminated one stays while its log is written or read, or an analysis is owed."""
        oldest = job.created_at + self.limits.job_age_max_s
        if job.terminated_at is not None:
            age_s = self.limits.pending_age_max_s if job.behind or owed(job) else self.limits.terminated_age_max_s
            return min(oldest, max(job.terminated_at, job.mtime_ns / 1e9) + age_s)
        if job.mode is JobMode.PENDING:
            return min(oldest, job.created_at + self.limits.pending_age_max_s)
        return oldest

    def _see(self, job: Job, look: Look, final: bool) -> Job:
        """Return the job after a look. Raises the fault of a LOGS_DIR that the job would need."""
        if look.number < job.look_number:  # A later look was taken in while this one waited.
            return job
        found = layout(job.job_id, look, self.limits.pending_bytes, final)
        if found is Layout.SPLIT and look.fault is not None:
            self._count_fault()
            raise look.fault
        mode = NEXT_MODE[job.mode, found]
        seen = replace(
            job,
            mode=mode,
            size=-1 if look.size is None else look.size,
            mtime_ns=look.mtime_ns,
            markers=look.markers,
            logs_dir=(look.logs_dir or job.logs_dir) if mode is JobMode.SPLITLOG else None,
            look_number=look.number,
        )
        return replace(seen, files=_files(job, seen, look))

    def _count_fault(self) -> None:
        self.counts["permission_errors.logs_dir"] += 1

    def _warnings(self, old: Job | None, job: Job) -> Iterator[Effect]:
        before = old.markers if old else Markers()
        if job.markers.logs_dir_changes > before.logs_dir_changes:
            yield Warn(f"'{job.path}' names several LOGS_DIR; the last one wins: '{job.markers.logs_dir}'")
        if job.job_id is None and job.markers.starts and not before.starts:
            yield Warn(f"'{job.path}' has START PATHS but was submitted without job_id; it is read as a single log")

    def _store(self, old: Job | None, job: Job, urgent: bool) -> Iterator[Effect]:
        """Take in a job as a look left it, and yield what is to be done about what is new."""
        yield from self._warnings(old, job)
        self._put(job)
        if job != old:
            yield Save(job)
        if job.mode is not JobMode.PENDING and (old is None or old.mode is not job.mode):
            self.counts[f"detection.total_{job.mode}"] += 1
            if old is not None and old.mode is JobMode.PENDING:
                self.counts[f"deferred.total_{job.mode}"] += 1
        live = live_file(job)
        if live is not None and (old is None or live != live_file(old)):
            yield Follow(job.path_of(live.name))
        for file in owed(job):
            log, last = job.path_of(file.name), file is job.files[-1]
            yield Analyse(job.path, file.name, (file.size, file.mtime_ns), log, job.requester(log), urgent and last)

    def _put(self, job: Job) -> None:
        old = self.jobs.get(job.path)
        if old is not None:
            self.modes[old.mode] -= 1
        self.modes[job.mode] += 1
        self.jobs[job.path] = job

    def _drop(self, path: str) -> None:
        self.modes[self.jobs.pop(path).mode] -= 1


def _files(before: Job, job: Job, look: Look) -> tuple[LogFile, ...]:
    if job.mode is JobMode.PENDING:
        return ()
    analysed = {f.name: f.analysed for f in before.files} if before.mode is job.mode else {}
    if job.mode is JobMode.SINGLE:
        name = os.path.basename(job.path)
        return () if look.size is None else (LogFile(name, look.size, look.mtime_ns, analysed.get(name)),)
    if look.logs_dir is None:  # Too early, or the directory is gone: keep what is known.
        return before.files
    return tuple(LogFile(f.name, f.size, f.mtime_ns, analysed.get(f.name)) for f in look.files)


def check_invariants(book: JobBook) -> None:
    """Assert what must hold between any two events."""
    assert len(book.jobs) <= book.limits.max_jobs, "more jobs than the limit"
    assert +book.modes == Counter(j.mode for j in book.jobs.values()), "the counts per mode differ from the jobs"
    for path, job in book.jobs.items():
        assert job.path == path
        assert (job.mode is JobMode.SPLITLOG) == (job.logs_dir is not None), f"{job.mode} with LOGS_DIR {job.logs_dir}"
        assert job.job_id is not None or job.mode is JobMode.SINGLE, "a job without job_id is single"
        assert len({f.name for f in job.files}) == len(job.files), "a file is listed twice"
        assert job.mode is not JobMode.PENDING or not job.files, "a pending job has files"
        assert job.mode is not JobMode.SINGLE or len(job.files) <= 1, "a single job has several files"
