"""``nvrx-attrsvc monitor``: watches Slurm, announces jobs to the service, asks why they died, prints the answers.

Hold in mind: the memory is saved before the service is asked, and every request is idempotent. So a monitor that is
killed anywhere repeats a question at worst, and a service that is down only delays the answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Protocol, TypeVar

from pydantic import ValidationError

from attr_actors.client import AttributionClient, Patience
from attr_actors.core.job_report import is_final, outcome, render_line, render_record
from attr_actors.core.job_watch import JobWatch, Watched
from attr_actors.core.slurm import Phase, SlurmJob
from attr_actors.core.slurm_output import candidate_paths
from attr_actors.errors import AnalysisFailed, AttrError, BadSettings, RequestError, SlurmError
from attr_actors.models import Intent
from attr_actors.monitor_settings import MonitorSettings
from serve_app.bodies import ResultReply

logger = logging.getLogger("attr_actors.monitor")

T = TypeVar("T")

PATIENCE = Patience(attempts_max=3, pauses_max_s=120.0, first_pause_s=5.0)
"""Of one look; the next look is the next attempt."""


class Commands(Protocol):
    """What is asked of Slurm."""

    def known_jobs(self) -> list[SlurmJob]: ...
    def ended_jobs(self, since: float) -> list[SlurmJob]: ...
    def output_path(self, job_id: str) -> str | None: ...
    def script(self, raw_id: int) -> str: ...


class Monitor:
    """One look after another: Slurm, then the service. ``issues`` says what went wrong in the last look."""

    def __init__(
        self,
        settings: MonitorSettings,
        commands: Commands,
        client: AttributionClient,
        say: Callable[[str], None],
        as_json: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._client = client
        self._say = say
        self._as_json = as_json
        self._clock = clock
        self._state = settings.state_path
        self._stopped = Event()
        self.watch = load_watch(self._state)
        self.issues: list[str] = []
        self.looked_at = 0.0
        self.looks = 0

    def run(self) -> None:
        """Look again and again until ``stop()``."""
        while not self._stopped.is_set():
            self.look()
            self._stopped.wait(self._settings.interval)

    def stop(self) -> None:
        """End ``run()`` after the request under way. Safe in a signal handler."""
        self._stopped.set()

    def pause(self, delay_s: float) -> None:
        """Sleep before a retry, but not beyond ``stop()``."""
        self._stopped.wait(delay_s)

    def look(self) -> bool:
        """Look once at Slurm and settle what can be settled; return whether nothing is owed and nothing went wrong."""
        self.issues = []
        self._observe(self._clock())
        self._save()
        self._attempt(self._announce_running)
        self._attempt(self._answer_ended)
        self._save()
        self.looked_at = self._clock()
        self.looks += 1
        owed = len(self.watch.to_announce()) + len(self.watch.to_answer())
        logger.debug("look %d: %d jobs remembered, %d owed, issues: %s", self.looks, len(self.watch.jobs), owed, self.issues)
        return not owed and not self.issues

    def _observe(self, now: float) -> None:
        horizon = (self.watch.cursor or now) - self._settings.lookback
        known = self._ask_slurm(self._commands.known_jobs)
        ended = self._ask_slurm(lambda: self._commands.ended_jobs(horizon))
        sightings = [self._with_path(job, horizon) for job in self._wanted(_merged(known or [], ended or []))]
        self.watch.observe(sightings, horizon, now, complete=known is not None)
        if ended is not None:  # What accounting could not tell now is asked again from the same instant on.
            self.watch.cursor = now
            self.watch.forget(now - self._settings.lookback)

    def _ask_slurm(self, question: Callable[[], list[SlurmJob]]) -> list[SlurmJob] | None:
        try:
            return question()
        except SlurmError as exc:
            self._note(exc.message)
            return None

    def _wanted(self, jobs: Iterable[SlurmJob]) -> Iterator[SlurmJob]:
        partitions = set(re.split(r"[\s,]+", self._settings.partitions.strip())) - {""}
        for job in jobs:
            in_partition = not partitions or bool(partitions & set(job.partition.split(",")))
            of_user = self._settings.user in ("", job.user)
            if in_partition and of_user and re.match(self._settings.job_pattern, job.name):
                yield job

    def _with_path(self, job: SlurmJob, horizon: float) -> SlurmJob:
        """Find the output of a job that is new: the controller tells while it knows the job, accounting gives hints."""
        known = self.watch.jobs.get(job.raw_id)
        if job.log_path or (known and known.log_path) or not self.watch.is_news(job, horizon) or job.phase is Phase.WAITING:
            return job
        told = self._commands.output_path(job.job_id)
        if told is None and not job.submit_line:
            return job
        script = "" if told else self._commands.script(job.raw_id)
        candidates = candidate_paths(replace(job, log_path=told), script)
        existing = [path for path in candidates if os.path.isfile(path)]
        return replace(job, log_path=next(iter([*existing, *candidates]), None))

    def _attempt(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except AttrError as exc:
            self._note(exc.message)

    def _announce_running(self) -> None:
        for job in self.watch.to_announce():
            if self._submit(job, Intent.TRACK_ONLY):
                self.watch.settle(job)

    def _answer_ended(self) -> None:
        """Start all analyses before waiting for the first, so that the service works on them side by side."""
        started = [(job, job.log_path) for job in self.watch.to_answer() if self._submit(job, Intent.TERMINAL) and job.log_path]
        for job, path in started:
            if self._stopped.is_set():
                return
            if reply := self._ask(job, partial(self._client.result, path, timeout_s=self._settings.timeout)):
                self._settle(job, reply)

    def _settle(self, job: Watched, reply: ResultReply) -> None:
        body = reply.model_dump(mode="json")
        if not is_final(body):
            return self.watch.refuse(job, f"no answer yet: {reply.result.error or reply.result.state}")
        self.watch.settle(job, *outcome(body))
        self._say(json.dumps(render_record(job, body)) if self._as_json else render_line(job, body))

    def _submit(self, job: Watched, intent: Intent) -> bool:
        if self._stopped.is_set():
            return False
        path = job.log_path
        if not path and job.phase is Phase.RUNNING:
            self.watch.dismiss(job)  # Interactive, or the controller knows no output; accounting may know at the end.
            return False
        if not path:
            self.watch.refuse(job, "Slurm does not tell where its output is")
            return False
        return self._ask(job, lambda: self._client.submit(path, job.user, job.job_id, analysis_intent=intent)) is not None

    def _ask(self, job: Watched, question: Callable[[], T]) -> T | None:
        """Ask the service about a job; a refusal is the job's. Raises AttrError if the service has no ear for any job now."""
        try:
            return question()
        except (RequestError, AnalysisFailed) as exc:
            if exc.retryable:
                raise
            self.watch.refuse(job, exc.message)
            return None

    def _note(self, issue: str) -> None:
        logger.warning("%s", issue)
        self.issues.append(issue)

    def _save(self) -> None:
        try:
            save_watch(self._state, self.watch)
        except OSError as exc:
            self._note(f"cannot save '{self._state}': {exc.strerror}")


def _merged(known: list[SlurmJob], ended: list[SlurmJob]) -> Iterable[SlurmJob]:
    """Yield each job once. The controller's word is newer; accounting adds exit codes and the jobs already forgotten."""
    accounted = {job.raw_id: job for job in ended}
    for job in known:
        row = accounted.pop(job.raw_id, None)
        same = row and job.phase is Phase.ENDED
        yield replace(job, exit_code=row.exit_code, submit_line=row.submit_line, log_path=row.log_path) if row and same else job
    yield from accounted.values()


def load_watch(path: Path) -> JobWatch:
    """Read the memory; a missing file is an empty one. Raises BadSettings where it cannot be understood."""
    try:
        return JobWatch.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return JobWatch()
    except OSError as exc:
        raise BadSettings(f"cannot read the monitor's memory '{path}': {exc.strerror}") from None
    except ValidationError:
        raise BadSettings(f"'{path}' is not the memory of a monitor; move it away or set NVRX_SMONSVC_STATE_FILE") from None


def save_watch(path: Path, watch: JobWatch) -> None:
    """Write the memory so that a crash leaves the old or the new one."""
    beside = path.with_name(path.name + ".new")
    with open(beside, "w") as file:
        file.write(watch.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


@contextlib.contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Hold the memory against a second monitor. Raises BadSettings if there is one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(path.name + ".lock"), "w")  # noqa: SIM115 - closed below
    except OSError as exc:
        raise BadSettings(f"cannot keep the monitor's memory at '{path}': {exc.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AttrError(f"another monitor uses '{path}'; set NVRX_SMONSVC_STATE_FILE for a second one") from None
        yield
