"""Which jobs must be announced and which must be answered: sightings in, work out.

Hold in mind: a sighting may be late, repeated, or missing. A job that ends between two looks is seen only by its end;
one that Slurm has forgotten is seen by its absence. What is owed stays owed, across restarts, until it is settled.

    state       sighting             next state   work
    (unknown)   running              running      announce
    (unknown)   ended since horizon  ended        answer
    running     running, later start running      announce
    running     ended                ended        answer
    running     absent               ended        answer (state UNKNOWN)
    running     waiting              waiting      -          (requeued)
    waiting     running              running      announce
    ended       ended, later         ended        answer     (requeued and ended unseen)
    ended       running, waiting     that         announce, -
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, Field

from attr_actors.core.slurm import Phase, SlurmJob

JOBS_MAX = 100_000
"""Jobs remembered at a time, about 60 MB; a new one beyond it waits for the next look and is counted."""

TRIES_MAX = 10
"""Looks in which an answer may be refused (log missing, outside the root, not ready) before the job is given up."""


class Watched(BaseModel):
    """What is remembered of one job; ``owed`` says what the service has not been told or asked yet."""

    raw_id: int
    job_id: str
    name: str
    user: str
    partition: str
    state: str
    phase: Phase
    exit_code: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    log_path: str | None = None
    owed: bool = True
    tries: int = 0
    problem: str | None = None
    action: str | None = None
    cause: str | None = None


class JobWatch(BaseModel):
    """The memory of the monitor. Saved as JSON after each look; ``cursor`` is the time of the last complete one.

    One thread changes it; others may read, and therefore iterate over copies.
    """

    version: int = 1
    cursor: float = 0.0
    jobs: dict[int, Watched] = Field(default_factory=dict)
    counts: Counter[str] = Field(default_factory=Counter)

    def observe(self, sightings: Iterable[SlurmJob], horizon: float, now: float, complete: bool = True) -> None:
        """Take in one look. What ended before ``horizon`` and is unknown is old news.

        In a complete look the controller was heard, so that a job it does not name is gone.
        """
        seen = set()
        for job in sightings:
            seen.add(job.raw_id)
            self._see(job, horizon)
        for watched in list(self.jobs.values()) if complete else ():
            if watched.phase is not Phase.ENDED and watched.raw_id not in seen:
                self._miss(watched, now)

    def _see(self, job: SlurmJob, horizon: float) -> None:
        if not self.is_news(job, horizon):
            return
        known = self.jobs.get(job.raw_id)
        if known is None and len(self.jobs) >= JOBS_MAX:
            self.counts["refused"] += 1
            return
        self.counts[f"seen_{job.phase}"] += 1
        self.jobs[job.raw_id] = Watched(
            raw_id=job.raw_id,
            job_id=job.job_id,
            name=job.name,
            user=job.user,
            partition=job.partition,
            state=job.state,
            phase=job.phase,
            exit_code=job.exit_code,
            started_at=job.started_at,
            ended_at=job.ended_at,
            log_path=job.log_path or (known.log_path if known else None),
            owed=job.phase is not Phase.WAITING and not job.interactive,
        )

    def is_news(self, job: SlurmJob, horizon: float) -> bool:
        """Tell whether a sighting changes what is remembered."""
        known = self.jobs.get(job.raw_id)
        if known is None:
            return job.phase is Phase.RUNNING or (job.phase is Phase.ENDED and job.ran and (job.ended_at or 0) >= horizon)
        if job.phase is not known.phase:
            return True
        if job.phase is Phase.ENDED:
            return (job.ended_at or 0) > (known.ended_at or 0)
        return job.phase is Phase.RUNNING and (job.started_at or 0) > (known.started_at or 0)

    def _miss(self, watched: Watched, now: float) -> None:
        if watched.phase is Phase.RUNNING:
            self.counts["vanished"] += 1
            update = {"phase": Phase.ENDED, "state": "UNKNOWN", "ended_at": now, "owed": True, "tries": 0}
        else:
            update = {"phase": Phase.ENDED, "ended_at": now, "owed": False}  # Cancelled while it waited again.
        self.jobs[watched.raw_id] = watched.model_copy(update=update)

    def to_announce(self) -> list[Watched]:
        """Return the running jobs that the service has not been told of."""
        return [job for job in list(self.jobs.values()) if job.owed and job.phase is Phase.RUNNING]

    def to_answer(self) -> list[Watched]:
        """Return the ended jobs that lack an answer, oldest end first."""
        owed = [job for job in list(self.jobs.values()) if job.owed and job.phase is Phase.ENDED]
        return sorted(owed, key=lambda job: job.ended_at or 0)

    def dismiss(self, job: Watched) -> None:
        """Note that there is nothing to tell now."""
        job.owed = False

    def settle(self, job: Watched, action: str | None = None, cause: str | None = None) -> None:
        """Note that the service took the announcement or gave the answer."""
        self.counts["announced" if job.phase is Phase.RUNNING else "answered"] += 1
        job.owed, job.problem, job.action, job.cause = False, None, action, cause

    def refuse(self, job: Watched, problem: str) -> None:
        """Note an answer that did not come for a reason of its own; after TRIES_MAX looks the job is given up."""
        job.tries += 1
        job.problem = problem
        if job.tries >= TRIES_MAX:
            job.owed = False
            self.counts["given_up"] += 1

    def forget(self, horizon: float) -> None:
        """Drop settled jobs that ended before the horizon; no look can bring them up again."""
        self.jobs = {raw_id: job for raw_id, job in self.jobs.items() if job.owed or job.ended_at is None or job.ended_at >= horizon}
