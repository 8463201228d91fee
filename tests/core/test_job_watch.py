"""Which jobs are owed an announcement or an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attr_actors.core import job_watch
from attr_actors.core.job_watch import TRIES_MAX, JobWatch
from attr_actors.core.slurm import Phase, SlurmJob

NOW = 1_790_000_000.0


def job(raw_id: int, phase: Phase, ended_at: float | None = None, start: float = 0, node: str = "n1", line: str = "") -> SlurmJob:
    state = {"waiting": "PENDING", "running": "RUNNING", "ended": "FAILED"}[phase]
    ends = (NOW - 10_000 + start, ended_at, "/w", "t", "1:0", line, f"/logs/{raw_id}.out")
    return SlurmJob(raw_id, str(raw_id), state, phase, "gpu", "ada", node, *ends)


def look(watch: JobWatch, *jobs: SlurmJob, horizon: float = NOW - 3600, complete: bool = True) -> tuple[list[int], list[int]]:
    """Take a look and return what is owed: (to announce, to answer)."""
    watch.observe(jobs, horizon, NOW, complete)
    return [j.raw_id for j in watch.to_announce()], [j.raw_id for j in watch.to_answer()]


def settle_all(watch: JobWatch) -> None:
    for owed in (*watch.to_announce(), *watch.to_answer()):
        watch.settle(owed)


def test_a_job_is_announced_once_and_answered_once() -> None:
    watch = JobWatch()
    assert look(watch, job(1, Phase.WAITING)) == ([], [])
    assert look(watch, job(1, Phase.RUNNING)) == ([1], [])
    settle_all(watch)
    assert look(watch, job(1, Phase.RUNNING)) == ([], [])
    assert look(watch, job(1, Phase.ENDED, NOW)) == ([], [1])
    settle_all(watch)
    assert look(watch, job(1, Phase.ENDED, NOW)) == ([], [])


def test_a_job_that_started_and_ended_between_two_looks_is_answered() -> None:
    assert look(JobWatch(), job(1, Phase.ENDED, NOW - 5)) == ([], [1])


def test_old_news_jobs_that_never_ran_and_interactive_ones_are_left_alone() -> None:
    old, unborn, interactive = job(1, Phase.ENDED, NOW - 7200), job(2, Phase.ENDED, NOW, node=""), job(3, Phase.RUNNING, line="srun a.out")
    assert look(JobWatch(), old, unborn, interactive) == ([], [])


def test_what_is_owed_stays_owed_across_a_restart_of_the_monitor() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.RUNNING), job(2, Phase.ENDED, NOW))
    again = JobWatch.model_validate_json(watch.model_dump_json())
    assert again == watch
    assert look(again, job(1, Phase.RUNNING), job(2, Phase.ENDED, NOW)) == ([1], [2])


def test_a_requeued_job_is_announced_again_and_answered_at_its_real_end() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.RUNNING))
    settle_all(watch)
    assert look(watch, job(1, Phase.WAITING, start=1)) == ([], [])
    assert look(watch, job(1, Phase.RUNNING, start=1)) == ([1], [])
    settle_all(watch)
    assert look(watch, job(1, Phase.RUNNING, start=2)) == ([1], [])
    assert look(watch, job(1, Phase.ENDED, NOW)) == ([], [1])
    settle_all(watch)
    assert look(watch, job(1, Phase.ENDED, NOW + 60)) == ([], [1])


def test_a_running_job_that_slurm_forgot_is_answered_with_an_unknown_state() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.RUNNING))
    assert look(watch, complete=False) == ([1], [])
    assert look(watch) == ([], [1])
    assert watch.jobs[1].state == "UNKNOWN"
    assert watch.jobs[1].log_path == "/logs/1.out"


def test_a_job_cancelled_while_it_waited_to_run_again_is_not_asked_about() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.RUNNING))
    look(watch, job(1, Phase.WAITING))
    assert look(watch) == ([], [])


def test_the_controllers_path_is_kept_when_accounting_reports_the_end_without_one() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.RUNNING))
    ended = replace(job(1, Phase.ENDED, NOW), log_path=None)
    assert look(watch, ended) == ([], [1])
    assert watch.jobs[1].log_path == "/logs/1.out"


def test_a_refused_job_is_given_up_after_a_limit_and_counted() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.ENDED, NOW))
    for _ in range(TRIES_MAX):
        assert [j.raw_id for j in watch.to_answer()] == [1]
        watch.refuse(watch.jobs[1], "not found")
    assert watch.to_answer() == []
    assert watch.counts["given_up"] == 1


def test_settled_jobs_are_forgotten_behind_the_horizon_and_owed_ones_are_not() -> None:
    watch = JobWatch()
    look(watch, job(1, Phase.ENDED, NOW - 100), job(2, Phase.ENDED, NOW - 100), job(3, Phase.RUNNING))
    watch.settle(watch.jobs[1])
    watch.settle(watch.jobs[3])
    watch.forget(NOW)
    assert sorted(watch.jobs) == [2, 3]


def test_more_jobs_than_the_limit_are_counted_and_wait_for_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_watch, "JOBS_MAX", 1)
    watch = JobWatch()
    assert look(watch, job(1, Phase.ENDED, NOW), job(2, Phase.ENDED, NOW)) == ([], [1])
    assert watch.counts["refused"] == 1
    settle_all(watch)
    watch.forget(NOW + 1)
    assert look(watch, job(2, Phase.ENDED, NOW)) == ([], [2])
