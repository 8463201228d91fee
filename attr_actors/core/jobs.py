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
from dataclasses import dataclass, field, replace
from enum import Enum

from attr_actors.core.looking import Known, Look
from attr_actors.core.markers import Markers
from attr_actors.core.splitlog import cycle_id_from_path, job_id_from_path
from attr_actors.errors import InvalidParameter, JobLimitReached
from attr_actors.models import Intent, JobMode, JobView, Requester, Submission


class Layout(Enum):
    """What a look says about how the job writes its logs."""

    WAITING = "too early to tell"
    PLAIN = "one log"
    SPLIT = "one log per restart, in LOGS_DIR"


NEXT_MODE = {
    (JobMode.PENDING, Layout.WAITING): JobMode.PENDING,
    (JobMode.PENDING, Layout.PLAIN): JobMode.SINGLE,
    (JobMode.PENDING, Layout.SPLIT): JobMode.SPLITLOG,
    (JobMode.SINGLE, Layout.WAITING): JobMode.SINGLE,
    (JobMode.SINGLE, Layout.PLAIN): JobMode.SINGLE,
    (JobMode.SINGLE, Layout.SPLIT): JobMode.SPLITLOG,
    (JobMode.SPLITLOG, Layout.WAITING): JobMode.SPLITLOG,
    (JobMode.SPLITLOG, Layout.PLAIN): JobMode.SPLITLOG,
    (JobMode.SPLITLOG, Layout.SPLIT): JobMode.SPLITLOG,
}


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log file of a job, as last seen, and the content (size, mtime_ns) that was analysed for it."""

    name: str
    size: int
    mtime_ns: int
    analysed: tuple[int, int] | None = None

    @property
    def settled(self) -> bool:
        """Tell whether nothing is left to analyse: it is empty, or its present content was analysed."""
        return self.size == 0 or self.analysed == (self.size, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted log path and its life. ``files`` are the logs whose answers are the job's: itself, or those in LOGS_DIR."""

    path: str
    user: str
    job_id: str | None
    cycle_id: int | None
    created_at: float
    mode: JobMode = JobMode.PENDING
    terminated_at: float | None = None
    progressive: bool = False
    size: int = -1
    mtime_ns: int = 0
    markers: Markers = field(default_factory=Markers)
    logs_dir: str | None = None
    files: tuple[LogFile, ...] = ()
    look_number: int = field(default=0, compare=False)
    """The newest look that was taken in; not saved."""

    @property
    def known(self) -> Known:
        """Return what the next look starts from."""
        return Known(self.size, self.mtime_ns, self.markers)

    def path_of(self, name: str) -> str:
        """Return the path of one of the job's files."""
        return os.path.join(self.logs_dir or os.path.dirname(self.path), name)

    def requester(self, path: str) -> Requester:
        """Return for whom a file of this job is analysed; the file's own cycle number wins over the job's."""
        named = cycle_id_from_path(path) if self.mode is JobMode.SPLITLOG else None
        cycle_id = next((c for c in (named, self.cycle_id, cycle_id_from_path(path)) if c is not None), None)
        return Requester(user=self.user, job_id=self.job_id or job_id_from_path(path), cycle_id=cycle_id)

    def view(self) -> JobView:
        """Return the job as callers see it."""
        split = self.mode is JobMode.SPLITLOG
        return JobView(
            path=self.path,
            user=self.user,
            job_id=self.job_id,
            cycle_id=self.cycle_id if self.cycle_id is not None else cycle_id_from_path(self.path),
            mode=self.mode,
            created_at=self.created_at,
            terminated=self.terminated_at is not None,
            sched_restarts=self.markers.starts if split else 0,
            logs_dir=self.logs_dir,
            log_files=tuple(self.path_of(f.name) for f in self.files) if split else (),
            files_analyzed=sum(f.analysed is not None for f in self.files),
        )


def layout(job_id: str | None, look: Look, pending_bytes: int, final: bool) -> Layout:
    """Return what a look says (the mode table of the HTTP contract); ``final``: nothing more will be written."""
    if job_id is None:
        return Layout.PLAIN
    if not look.size or (look.size < pending_bytes and not final):
        return Layout.WAITING
    if look.logs_dir is not None or look.fault is not None:
        return Layout.SPLIT
    more_to_come = look.markers.block_open or look.markers.logs_dir is not None
    return Layout.WAITING if more_to_come and not final else Layout.PLAIN


def owed(job: Job) -> tuple[LogFile, ...]:
    """Return the complete files whose present content was not analysed yet.

    A file is complete when a newer one exists or the job has terminated.
    """
    if job.mode is JobMode.PENDING:
        return ()
    complete = job.files if job.terminated_at is not None else job.files[:-1]
    return tuple(f for f in complete if not f.settled)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A client posted a log; ``look`` was taken for it."""

    submission: Submission
    look: Look
    at: float


@dataclass(frozen=True, slots=True)
class Looked:
    """The clock looked at a job's files."""

    path: str
    look: Look


@dataclass(frozen=True, slots=True)
class Finished:
    """A client asked for the final answer."""

    path: str
    look: Look
    at: float


@dataclass(frozen=True, slots=True)
class Analysed:
    """A file's content has its answer, or is known to have none."""

    path: str
    name: str
    content: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time went by for some jobs."""

    at: float
    paths: tuple[str, ...]


Event = Submitted | Looked | Finished | Analysed | Ticked


@dataclass(frozen=True, slots=True)
class Save:
    """Make a job durable."""

    job: Job


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a job."""

    path: str


@dataclass(frozen=True, slots=True)
class Analyse:
    """Have a complete file analysed; ``urgent``: it is the last one, and a client is about to ask."""

    path: str
    name: str
    content: tuple[int, int]
    log: str
    requester: Requester
    urgent: bool


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell the operator."""

    message: str


Effect = Save | Forget | Analyse | Warn


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

        Not at a single log (it is looked at when somebody asks), nor at what is done and not yet old enough to go.
        """
        job = self.jobs.get(path)
        if job is None:
            return False
        if job.terminated_at is None:
            return job.mode is not JobMode.SINGLE
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
        yield from self._warnings(old, job)
        yield from self._store(old, job, urgent=terminal)

    def _looked(self, event: Looked) -> Iterator[Effect]:
        old = self.jobs.get(event.path)
        if old is None:
            return
        if event.look.fault is not None:
            self._count_fault()
            return
        job = self._see(old, event.look, final=old.terminated_at is not None)
        yield from self._warnings(old, job)
        yield from self._store(old, job, urgent=False)

    def _finished(self, event: Finished) -> Iterator[Effect]:
        old = self.jobs.get(event.path)
        if old is None:
            return
        job = self._see(old, event.look, final=True)
        if job.mode is not JobMode.PENDING:
            job = replace(job, terminated_at=job.terminated_at or event.at)
        yield from self._warnings(old, job)
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
        """Return when a job is forgotten. A terminated one stays while its log is still written to or an analysis is owed."""
        oldest = job.created_at + self.limits.job_age_max_s
        if job.terminated_at is not None:
            age_s = self.limits.pending_age_max_s if owed(job) else self.limits.terminated_age_max_s
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
        self._put(job)
        if job != old:
            yield Save(job)
        if job.mode is not JobMode.PENDING and (old is None or old.mode is not job.mode):
            self.counts[f"detection.total_{job.mode}"] += 1
            if old is not None and old.mode is JobMode.PENDING:
                self.counts[f"deferred.total_{job.mode}"] += 1
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
