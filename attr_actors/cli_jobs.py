"""``nvrx-attrsvc jobs``: what a running service tracks, asked over HTTP."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from attr_actors.cli_output import EXIT_OK, add_command
from attr_actors.cli_remote import add_service_options, open_client


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``jobs`` command."""
    told = "list the jobs that a running service tracks, newest first"
    jobs = add_command(commands, "jobs", show_jobs, told, "nvrx-attrsvc jobs --mode pending --limit 5")
    jobs.add_argument("--mode", choices=("pending", "single", "splitlog"), help="only jobs of this mode")
    jobs.add_argument("--limit", type=int, default=20, help="jobs per page, at most 1000; default: %(default)s")
    jobs.add_argument("--offset", type=int, default=0, help="jobs to skip")
    add_service_options(jobs)


def show_jobs(args: argparse.Namespace) -> int:
    """Print one page of jobs; return the exit code. ``--json`` prints one object per job and line."""
    from attr_actors.models import JobMode

    with open_client(args) as client:
        page = client.jobs(JobMode(args.mode) if args.mode else None, args.limit, args.offset).model_dump(mode="json")
    if args.json:
        for job in page["jobs"]:
            print(json.dumps(job))
    else:
        print(render_page(page, args.offset, time.time()))
    return EXIT_OK


def render_page(page: dict[str, Any], offset: int, now: float) -> str:
    """Return a table of jobs with a line of totals."""
    totals = page["total_counts"]
    head = ", ".join(f"{totals[mode]} {mode}" for mode in ("pending", "single", "splitlog"))
    rows = [("JOB", "USER", "MODE", "AGE", "FILES", "LOG"), *(_row(job, now) for job in page["jobs"])]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows]
    shown = f"{head}; shown: {offset + 1 if page['jobs'] else offset}-{offset + len(page['jobs'])}"
    return "\n".join([shown, *table])


def _row(job: dict[str, Any], now: float) -> tuple[str, str, str, str, str, str]:
    mode = job["mode"] + (" (ended)" if job["terminated"] else "")
    files = f"{job['files_analyzed']}/{job['files_count']}" if job["mode"] == "splitlog" else "-"
    cells = (job["job_id"] or "-", job["user"], mode, render_age(now - job["created_at"]), files, job["log_path"])
    job_id, user, mode, age, files, log = ("".join(c if c.isprintable() else "?" for c in cell) for cell in cells)
    return job_id, user, mode, age, files, log


def render_age(seconds: float) -> str:
    """Return a duration in its largest unit: 45s, 12m, 5h, 3d."""
    for limit, unit, size in ((60, "s", 1), (3600, "m", 60), (86400, "h", 3600)):
        if seconds < limit:
            return f"{max(0, int(seconds)) // size}{unit}"
    return f"{int(seconds) // 86400}d"
