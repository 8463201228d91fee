"""The book in numbers: the predecessor's groups of /stats, by dotted name."""

from __future__ import annotations

from collections import Counter

from attr_actors.core.jobs import JobBook
from attr_actors.models import JobMode


def count_jobs(book: JobBook, counted: Counter[str]) -> dict[str, float]:
    """Return gauges of the present jobs and sums of what was ``counted``."""
    split = [job for job in book.jobs.values() if job.mode is JobMode.SPLITLOG]
    return {
        "submissions.total": counted["submissions.new"] + counted["submissions.repeated"],
        "detection.total_splitlog": counted["detection.total_splitlog"],
        "detection.total_single": counted["detection.total_single"],
        "detection.pending": book.modes[JobMode.PENDING],
        "detection.jobs_expired": counted["cleanup.pending"],
        "deferred.total_splitlog": counted["deferred.total_splitlog"],
        "deferred.total_single": counted["deferred.total_single"],
        "permission_errors.total": counted["permission_errors.logs_dir"] + counted["permission_errors.file"],
        "permission_errors.logs_dir": counted["permission_errors.logs_dir"],
        "permission_errors.file": counted["permission_errors.file"],
        "splitlog.jobs": len(split),
        "splitlog.jobs_terminated": sum(job.terminated_at is not None for job in split),
        "splitlog.jobs_cleaned": counted["cleanup.terminated"] + counted["cleanup.aged"],
        "splitlog.files.tracked": sum(len(job.files) for job in split),
        "splitlog.files.analyzed": sum(file.analysed is not None for job in split for file in job.files),
        "splitlog.sched_restarts": sum(job.markers.starts for job in split),
        "jobs.total": len(book.jobs),
        "jobs.max": book.limits.max_jobs,
    }
