"""A job as a row of the ledger: compact JSON, made and read by the tracker alone."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

from attr_actors.core.job import Job, LogFile
from attr_actors.core.markers import Markers
from attr_actors.models import JobMode

VERSION = 1


def render_job(job: Job) -> str:
    """Return the row of a job."""
    row = {
        "v": VERSION,
        "path": job.path,
        "user": job.user,
        "job_id": job.job_id,
        "cycle_id": job.cycle_id,
        "created_at": job.created_at,
        "mode": job.mode.value,
        "terminated_at": job.terminated_at,
        "progressive": job.progressive,
        "size": job.size,
        "mtime_ns": job.mtime_ns,
        "markers": astuple(job.markers),
        "logs_dir": job.logs_dir,
        "files": [(f.name, f.size, f.mtime_ns, f.analysed) for f in job.files],
    }
    return json.dumps(row, separators=(",", ":"))


def parse_job(text: str) -> Job:
    """Return the job of a row. Raises ValueError for a row of another version or shape."""
    try:
        row: dict[str, Any] = json.loads(text)
        if row.pop("v") != VERSION:
            raise ValueError("the row has another version")
        row["mode"] = JobMode(row["mode"])
        row["markers"] = Markers(*row["markers"])
        row["files"] = tuple(LogFile(n, s, m, tuple(a) if a else None) for n, s, m, a in row["files"])
        return Job(**row)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a job row: {exc}") from None
