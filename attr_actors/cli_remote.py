"""``nvrx-attrsvc submit``, ``result``, ``stats`` and ``health``: questions to a running service, over HTTP."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from attr_actors.cli_output import EXIT_FAILED, EXIT_FAULTS, EXIT_OK, add_command, terminal_width, wants_colour

if TYPE_CHECKING:
    from attr_actors.client import AttributionClient

INTENTS = ("track_only", "progressive", "terminal")
ATTEMPTS_MAX = 4
"""A person waits: with pauses of up to a second and a half, long enough for an actor that restarts."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    submit = add_command(
        commands, "submit", _submit, "tell the service about a job's log", "nvrx-attrsvc submit /logs/slurm-7.out --user ann --job-id 7"
    )
    submit.add_argument("log_path", metavar="LOG", help="absolute path as the service sees it; the file need not exist yet")
    submit.add_argument("--user", default="unknown", help="the job's owner")
    submit.add_argument("--job-id", help="the scheduler's id; needed for jobs with LOGS_DIR")
    submit.add_argument("--cycle-id", type=int, metavar="N")
    submit.add_argument("--intent", choices=INTENTS, default="track_only", help="terminal analyses at once")
    result = add_command(commands, "result", _result, "ask the service why a job died", "nvrx-attrsvc result /logs/slurm-7.out")
    result.add_argument("log_path", metavar="LOG", help="absolute path as the service sees it")
    result.add_argument("--file", metavar="NAME", help="one file of a job with LOGS_DIR")
    result.add_argument("--wl-restart", type=int, metavar="N", help="one workload cycle, from 0")
    result.add_argument("--no-wait", action="store_true", help="show what is known and start nothing")
    result.add_argument("--timeout", type=float, metavar="SECONDS", help="longest wait for the answer")
    stats = add_command(commands, "stats", _stats, "show the counters of a running service")
    health = add_command(commands, "health", _health, "tell how a running service is; exit code 0 ok, 3 degraded, 1 failing")
    health.add_argument(
        "--ready", action="store_true", help="exit code 1 until the ledger and the tracker answer, then 0, whatever else is wrong"
    )
    for command in (submit, result, stats, health):
        add_service_options(command)


def add_service_options(command: argparse.ArgumentParser) -> None:
    """Add what every question to a service needs."""
    command.add_argument("--url", default=default_url(), help="where the service listens; default: %(default)s")
    command.add_argument("--json", action="store_true", help="the service's own reply")


def default_url() -> str:
    """Return the address that the environment names: NVRX_ATTRSVC_URL, or the service's own HOST and PORT."""
    here = f"http://{os.environ.get('NVRX_ATTRSVC_HOST', '127.0.0.1')}:{os.environ.get('NVRX_ATTRSVC_PORT', '8000')}"
    return os.environ.get("NVRX_ATTRSVC_URL") or here


def open_client(args: argparse.Namespace, attempts_max: int = ATTEMPTS_MAX) -> AttributionClient:
    """Return a client of the service at ``--url``; the key comes from NVRX_ATTRSVC_API_KEY."""
    from attr_actors.client import AttributionClient, Patience

    return AttributionClient(args.url, os.environ.get("NVRX_ATTRSVC_API_KEY"), Patience(attempts_max))


def _submit(args: argparse.Namespace) -> int:
    from attr_actors.models import Intent

    with open_client(args) as client:
        reply = client.submit(args.log_path, args.user, args.job_id, args.cycle_id, Intent(args.intent))
    if args.json:
        print(reply.model_dump_json())
    else:
        directory = f", logs in {reply.logs_dir}" if reply.logs_dir else ""
        print(f"{reply.normalized_path}: tracked ({reply.mode}{directory})")
    return EXIT_OK


def _result(args: argparse.Namespace) -> int:
    from attr_actors.core.terminal import render_terminal

    with open_client(args) as client:
        reply = client.result(args.log_path, args.file, args.wl_restart, wait=not args.no_wait, timeout_s=args.timeout)
    if args.json:
        print(reply.model_dump_json())
    elif reply.attribution:
        print(render_terminal(reply.log_file or args.log_path, reply.attribution, terminal_width(), wants_colour()))
    else:
        print(f"{args.log_path}: {reply.status}" + (f"; {reply.result.error}" if reply.result.error else ""))
    return EXIT_OK if reply.status == "completed" or args.no_wait else EXIT_FAULTS


def _stats(args: argparse.Namespace) -> int:
    with open_client(args) as client:
        stats = client.stats()
    print(json.dumps(stats) if args.json else render_stats(stats))
    return EXIT_OK


def render_stats(stats: dict[str, dict[str, Any]]) -> str:
    """Return the groups that hold something, a counter per line."""
    lines = []
    for name, counters in stats.items():
        width = max(map(len, counters), default=0)
        lines += [name, *(f"  {key:{width}}  {value}" for key, value in counters.items())] if counters else []
    return "\n".join(lines)


def _health(args: argparse.Namespace) -> int:
    with open_client(args, attempts_max=1) as client:
        reply = client.health(args.ready)
    head = f"{'ready' if reply.ready else 'not ready'}, {reply.status}" if args.ready else reply.status
    print(reply.model_dump_json() if args.json else "\n  ".join([head, *reply.issues]))
    if args.ready:
        return EXIT_OK if reply.ready else EXIT_FAILED
    return {"ok": EXIT_OK, "degraded": EXIT_FAULTS, "fail": EXIT_FAILED}[reply.status]
