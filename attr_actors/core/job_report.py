"""The service's answer for one Slurm job -> what the monitor prints."""

from __future__ import annotations

from typing import Any

from attr_actors.core.job_watch import Watched

CITED_MAX = 3
"""Cited lines shown per job; the rest is one GET away."""


def outcome(body: dict[str, Any]) -> tuple[str, str]:
    """Return action and cause of a GET /logs reply; ``recommendation`` is there even where ``attribution`` is not."""
    recommended = body.get("recommendation") or {}
    attribution = body.get("attribution") or {}
    action = str(recommended.get("action") or attribution.get("action") or "UNKNOWN")
    return action, str(attribution.get("root_cause") or recommended.get("reason") or "")


def is_final(body: dict[str, Any]) -> bool:
    """Tell whether the reply holds an answer, not a time-out."""
    return str(body["result"].get("state")) == "complete"


def render_line(job: Watched, body: dict[str, Any]) -> str:
    """Return the answer for a person: job, end, action, cause, the cited lines, the log."""
    action, cause = outcome(body)
    attribution = body.get("attribution") or {}
    rows = [f"{job.job_id} {_plain(job.name)} ({job.user})  {job.state} exit {job.exit_code or '-'}  ->  {action}  {_plain(cause)}"]
    for line in (attribution.get("root_lines") or [])[:CITED_MAX]:
        rows.append(f"    line {line.get('line_number')}: {_plain(str(line.get('text', '')))[:200]}")
    nodes = attribution.get("exclude_nodes") or []
    if nodes:
        rows.append(f"    exclude: {_plain(', '.join(map(str, nodes)))}")
    rows.append(f"    log: {_plain(job.log_path or '-')}")
    return "\n".join(rows)


def render_record(job: Watched, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer for a program, one JSON object per job."""
    return {
        "job_id": job.job_id,
        "name": job.name,
        "user": job.user,
        "partition": job.partition,
        "state": job.state,
        "exit_code": job.exit_code,
        "ended_at": job.ended_at,
        "log_path": job.log_path,
        "recommendation": body.get("recommendation"),
        "attribution": body.get("attribution"),
    }


def _plain(text: str) -> str:
    """Names and log lines are other people's: nothing in them may move the cursor of a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
