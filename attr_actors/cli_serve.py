"""``nvrx-attrsvc serve``, ``demo`` and ``config``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from attr_actors.cli_output import EXIT_OK, add_command, say


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    add_command(
        commands,
        "serve",
        run_serve,
        "start the HTTP service (starts a local Ray, or joins RAY_ADDRESS)",
        "NVRX_ATTRSVC_ALLOWED_ROOT=/logs nvrx-attrsvc serve",
    )
    config = add_command(commands, "config", _config, "show the effective settings, secrets masked, and where each came from")
    config.add_argument("--json", action="store_true", help="one JSON array of name, value, origin")
    demo = add_command(commands, "demo", _demo, "serve sample logs on a local Ray and show their attributions", "nvrx-attrsvc demo --once")
    demo.add_argument("--once", action="store_true", help="stop after the answers")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    from attr_actors.settings import Settings
    from serve_app.launch import serve_until_stopped

    serve_until_stopped(Settings.load(), say=say)
    return EXIT_OK


def _demo(args: argparse.Namespace) -> int:
    from serve_app.demo import run_demo

    run_demo(once=args.once, say=say)
    return EXIT_OK


def _config(args: argparse.Namespace) -> int:
    from attr_actors.settings import Settings, env_name, masked, origins

    shown = masked(Settings.load())
    where = origins()
    rows: list[dict[str, Any]] = [{"name": env_name(k), "value": v, "origin": where[k]} for k, v in shown.items()]
    if args.json:
        print(json.dumps(rows))
        return EXIT_OK
    name_width = max(len(r["name"]) for r in rows)
    for row in rows:
        print(f"{row['name']:{name_width}}  {'-' if row['value'] in ('', None) else row['value']}  ({row['origin']})")
    return EXIT_OK
