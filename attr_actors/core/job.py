"""One job: its state, what a look says about its layout, and what it still owes. All of it follows from frozen values."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum

from attr_actors.core.looking import Known, Look
from attr_actors.core.markers import Markers
from attr_actors.core.splitlog import cycle_id_from_path, job_id_from_path
from attr_actors.models import JobMode, JobView, Requester


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

    @property
    def behind(self) -> bool:
        """Tell whether the log was not read through yet, so that its last LOGS_DIR is not known. Without a job_id none is asked for."""
        return self.job_id is not None and self.markers.is_behind(self.size)

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
    if not look.size or look.behind or (look.size < pending_bytes and not final):
        return Layout.WAITING
    if look.logs_dir is not None or look.fault is not None:
        return Layout.SPLIT
    more_to_come = look.markers.block_open or look.markers.logs_dir is not None
    return Layout.WAITING if more_to_come and not final else Layout.PLAIN


def owed(job: Job) -> tuple[LogFile, ...]:
    """Return the complete files whose present content was not analysed yet.

    A file is complete when a newer one exists or the job has terminated; which one is the last is known once the log was
    read through.
    """
    if job.mode is JobMode.PENDING:
        return ()
    complete = job.files if job.terminated_at is not None and not job.behind else job.files[:-1]
    return tuple(f for f in complete if not f.settled)


def live_file(job: Job) -> LogFile | None:
    """Return the file that a progressive job is writing, or None."""
    return job.files[-1] if job.progressive and job.terminated_at is None and job.files else None
