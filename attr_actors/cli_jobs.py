"""``nvrx-attrsvc jobs``: what a running service tracks, asked over HTTP."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _SubParsersAction

TIMEOUT_S = 30.0
"""A page of jobs is ready in milliseconds; a service that needs longer is in trouble, and the user should know."""


def add_parsers(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``jobs`` command."""
    jobs = commands.add_parser("jobs", help="list the jobs that a running service tracks, newest first")
    jobs.add_argument("--url", default=default_url(), help="where the service listens; default: %(default)s")
    jobs.add_argument("--mode", choices=("pending", "single", "splitlog"), help="only jobs of this mode")
    jobs.add_argument("--limit", type=int, default=20, help="jobs per page, at most 1000; default: %(default)s")
    jobs.add_argument("--offset", type=int, default=0, help="jobs to skip")
    jobs.add_argument("--json", action="store_true", help="the service's own reply, one JSON object per job and line")
    jobs.set_defaults(run=show_jobs)


def default_url() -> str:
    """Return the address that the service's own environment variables name."""
    return f"http://{os.environ.get('NVRX_ATTRSVC_HOST', '127.0.0.1')}:{os.environ.get('NVRX_ATTRSVC_PORT', '8000')}"


def show_jobs(args: argparse.Namespace) -> int:
    """Print one page of jobs; return the exit code. Raises Unavailable and InvalidParameter."""
    asked = {"mode": args.mode, "limit": args.limit, "offset": args.offset}
    page = fetch(f"{args.url.rstrip('/')}/jobs", {k: v for k, v in asked.items() if v is not None})
    if args.json:
        for job in page["jobs"]:
            print(json.dumps(job))
    else:
        print(render_page(page, args.offset, time.time()))
    return 0


def fetch(url: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON body of a GET. Raises Unavailable (nobody answers) and InvalidParameter (the service refuses)."""
    import httpx

    from attr_actors.errors import InvalidParameter, Unavailable

    try:
        reply = httpx.get(url, params=params, timeout=TIMEOUT_S)
        body: dict[str, Any] = reply.json()
    except httpx.HTTPError as exc:
        raise Unavailable(f"no service answers at {url}: {exc}") from None
    except ValueError:
        raise Unavailable(f"{url} answered {reply.status_code} and no JSON; is it this service?") from None
    if reply.status_code >= 500:
        raise Unavailable(str(body.get("message", reply.status_code)))
    if reply.status_code != 200:
        raise InvalidParameter(str(body.get("message", reply.status_code)))
    return body


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
