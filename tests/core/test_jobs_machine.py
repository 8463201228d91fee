"""The job book against a file system that does what it likes: logs appear, grow, shrink, vanish and change owner."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from attr_actors.core.job import owed
from attr_actors.core.job_events import Analyse, Analysed, Event, Finished, Forget, Looked, Save, Submitted, Ticked
from attr_actors.core.job_rows import parse_job, render_job
from attr_actors.core.jobs import JobBook, Limits, check_invariants
from attr_actors.core.looking import Bounds, Known, Look, take_look
from attr_actors.core.paths import LogPath
from attr_actors.errors import AttrError, JobLimitReached, NotReadable
from attr_actors.models import Intent, JobMode, Submission

LIMITS = Limits(max_jobs=2, pending_bytes=50, pending_age_max_s=1000, terminated_age_max_s=10, job_age_max_s=5000)
MODES = list(JobMode)
NOBODY = 65534

log_names = st.sampled_from(["slurm-7.out", "slurm-8.out", "slurm-9.out"])
file_names = st.sampled_from(["m_7_cycle0.log", "m_7_cycle1.log", "m_8_a.log", "m_7_date_26-01-01.log", "m_7_x.env.log"])
texts = st.sampled_from(["", "x\n", "y" * 60 + "\n", "half a line", "<< START PATHS >>\n", "<< END PATHS >>\n", "LOGS_DIR={root}/logs\n"])
blocks = st.just("<< START PATHS >>\nLOGS_DIR={root}/logs\n<< END PATHS >>\n" + "z" * 60 + "\n")


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, so that permissions mean something."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class JobsAndFiles(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.root = Path(os.path.realpath(tempfile.mkdtemp()))
        self.root.chmod(0o755)
        (self.root / "logs").mkdir()
        self.book = JobBook(LIMITS)
        self.disk: dict[str, str] = {}
        self.seen_modes: dict[str, JobMode] = {}
        self.job_ids: dict[str, str] = {}
        self.todo: dict[tuple[str, str], Analyse] = {}
        self.now, self.looks, self.mtime = 0.0, 0, 0

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    # The file system.

    def touch(self, path: Path) -> None:
        self.mtime += 1_000_000  # The clock of the book runs in seconds from 0; files must not look newer than it.
        os.utime(path, ns=(0, self.mtime))

    @rule(name=log_names, text=texts | blocks)
    def append(self, name: str, text: str) -> None:
        path = self.root / name
        with path.open("a") as f:
            f.write(text.replace("{root}", str(self.root)))
        self.touch(path)

    @rule(name=log_names, text=texts)
    def truncate(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(text)
        self.touch(path)

    @rule(name=log_names, text=texts | blocks)
    def replace(self, name: str, text: str) -> None:
        fresh = self.root / "fresh"
        fresh.write_text(text.replace("{root}", str(self.root)))
        self.touch(fresh)
        os.replace(fresh, self.root / name)

    @rule(name=log_names)
    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    @rule(name=log_names, mode=st.sampled_from([0o000, 0o600, 0o644]))
    def change_owner(self, name: str, mode: int) -> None:
        if (self.root / name).exists():
            (self.root / name).chmod(mode)

    @rule(name=file_names, text=texts)
    def write_split_file(self, name: str, text: str) -> None:
        path = self.root / "logs" / name
        path.write_text(text)
        self.touch(path)

    @rule(name=file_names)
    def remove_split_file(self, name: str) -> None:
        (self.root / "logs" / name).unlink(missing_ok=True)

    @rule(mode=st.sampled_from([0o000, 0o755]))
    def close_or_open_logs_dir(self, mode: int) -> None:
        (self.root / "logs").chmod(mode)

    # The service.

    def look(self, path: str, job_id: str | None) -> Look | None:
        job = self.book.jobs.get(path)
        self.looks += 1
        try:
            with as_nobody():
                log = LogPath(path, str(self.root))
                return take_look(log, job.job_id if job else job_id, job.known if job else Known(), Bounds(2**20, 100), self.looks)
        except NotReadable:
            return None

    def due(self) -> list[str]:
        return [path for path in self.book.jobs if self.book.is_due(path, self.now)]

    def apply(self, event: Event) -> None:
        try:
            effects = self.book.apply(event)
        except JobLimitReached:
            assert len(self.book.jobs) == LIMITS.max_jobs
            return
        except AttrError:
            return
        for effect in effects:
            match effect:
                case Save(job):
                    self.disk[job.path] = render_job(job)
                case Forget(path):
                    del self.disk[path]
                case Analyse():
                    asked = {f.name: f for f in self.book.jobs[effect.path].files}[effect.name]
                    assert asked.analysed != effect.content, "the same content is analysed twice"
                    assert effect.content == (asked.size, asked.mtime_ns)
                    self.todo[effect.path, effect.name] = effect

    @rule(name=log_names, job_id=st.sampled_from([None, "7", "8"]), intent=st.sampled_from(Intent))
    def submit(self, name: str, job_id: str | None, intent: Intent) -> None:
        path = str(self.root / name)
        if seen := self.look(path, job_id):
            self.apply(Submitted(Submission(path=path, job_id=job_id, intent=intent), seen, self.now))

    @rule()
    def poll(self) -> None:
        for path in self.due():
            if seen := self.look(path, None):
                self.apply(Looked(path, seen))

    @rule(name=log_names)
    def finish(self, name: str) -> None:
        path = str(self.root / name)
        if path in self.book.jobs and (seen := self.look(path, None)):
            self.apply(Finished(path, seen, self.now))

    @precondition(lambda self: self.todo)
    @rule(data=st.data())
    def analyse(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.todo)))
        errand = self.todo.pop(key)
        self.apply(Analysed(errand.path, errand.name, errand.content))

    @rule(seconds=st.sampled_from([1, 20, 2000]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.apply(Ticked(self.now, tuple(self.book.jobs)))

    @rule()
    def crash_and_restart(self) -> None:
        jobs = sorted((parse_job(row) for row in self.disk.values()), key=lambda j: j.created_at)
        self.book = JobBook(LIMITS)
        for job in jobs:
            self.book.restore(job)
        self.todo.clear()
        self.looks = 0

    # What must hold after each step.

    @invariant()
    def the_book_is_sound(self) -> None:
        if hasattr(self, "book"):
            check_invariants(self.book)

    @invariant()
    def what_is_on_disk_is_what_is_known(self) -> None:
        if hasattr(self, "book"):
            assert {path: parse_job(row) for path, row in self.disk.items()} == self.book.jobs

    @invariant()
    def modes_never_go_back_and_job_ids_never_change(self) -> None:
        if not hasattr(self, "book"):
            return
        for path, job in self.book.jobs.items():
            assert MODES.index(job.mode) >= MODES.index(self.seen_modes.get(path, job.mode))
            assert job.job_id == self.job_ids.get(path, job.job_id)
        self.seen_modes = {p: j.mode for p, j in self.book.jobs.items()}
        self.job_ids = {p: j.job_id for p, j in self.book.jobs.items() if j.job_id}

    @invariant()
    def whatever_is_owed_is_on_the_list_or_on_the_clock(self) -> None:
        if not hasattr(self, "book"):
            return
        due = set(self.due())
        for path, job in self.book.jobs.items():
            for file in owed(job):
                assert (path, file.name) in self.todo or path in due


JobsAndFiles.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
test_jobs_and_files = JobsAndFiles.TestCase
