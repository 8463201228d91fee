"""``nvrx-attrsvc monitor``: the command line of the Slurm monitor. Arguments win over the environment."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from attr_actors.cli_output import EXIT_FAILED, EXIT_OK, say

OPTIONS = {
    "attrsvc_url": ("--attrsvc-url", "URL", "the service (NVRX_ATTRSVC_URL, default http://localhost:8000)"),
    "partitions": ("--partitions", "NAMES", "partitions to watch, separated by blanks; default: all"),
    "user": ("--user", "NAME", "watch this user's jobs only"),
    "job_pattern": ("--job-pattern", "REGEX", "watch jobs whose name matches from its start"),
    "interval": ("--interval", "SECONDS", "time between two looks; default 180"),
    "timeout": ("--timeout", "SECONDS", "longest wait for one answer of the service; default 60"),
    "lookback": ("--lookback", "SECONDS", "how far each look reaches back into accounting; default 3600"),
    "host": ("--host", "ADDRESS", "address of the status endpoint; default 127.0.0.1"),
    "port": ("--port", "PORT", "serve /healthz, /stats and /jobs on this port"),
    "state_file": ("--state-file", "FILE", "where the monitor remembers jobs"),
}


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``monitor``."""
    parser = commands.add_parser(
        "monitor",
        help="watch Slurm: submit each job's log, print why it died",
        description="Watches Slurm and asks the service why jobs died. Settings come from NVRX_ATTRSVC_URL and NVRX_SMONSVC_*.",
        epilog="example: nvrx-attrsvc monitor --once --attrsvc-url http://127.0.0.1:8000",
    )
    parser.add_argument("--once", action="store_true", help="look once and exit: 0 all answered, 1 something is still owed")
    parser.add_argument("--json", action="store_true", help="print one JSON object per job and line")
    parser.add_argument("-v", "--verbose", action="store_true", default=None, help="log each look")
    for name, (flag, metavar, text) in OPTIONS.items():
        parser.add_argument(flag, dest=name, metavar=metavar, help=text)
    parser.set_defaults(run=run_monitor)


def run_monitor(args: argparse.Namespace) -> int:
    """Run the monitor until SIGINT or SIGTERM, or once; return the exit code."""
    import logging
    import signal

    from attr_actors.adapters.slurm_commands import SlurmCommands
    from attr_actors.client import AttributionClient
    from attr_actors.monitor import PATIENCE, Monitor, sole_owner
    from attr_actors.monitor_settings import MonitorSettings
    from attr_actors.monitor_status import status_endpoint

    given: dict[str, Any] = {name: getattr(args, name) for name in (*OPTIONS, "verbose")}
    settings = MonitorSettings.load(**{name: value for name, value in given.items() if value is not None})
    logging.basicConfig(level="DEBUG" if settings.verbose else settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_owner(settings.state_path))
        client = stack.enter_context(
            AttributionClient(settings.attrsvc_url, settings.api_key, PATIENCE, lambda pause_s: monitor.pause(pause_s))
        )
        monitor = Monitor(settings, SlurmCommands(), client, say, as_json=args.json)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: monitor.stop())
        if settings.port is not None:
            stack.enter_context(status_endpoint(monitor, settings.host, settings.port, settings.interval))
        if args.once:
            return EXIT_OK if monitor.look() else EXIT_FAILED
        monitor.run()
    return EXIT_OK
