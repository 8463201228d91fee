"""``nvrx-attrsvc``: the command line. Heavy imports wait until their command runs, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import attr_actors
from attr_actors.cli_keys import add_parsers as add_keys_parsers
from attr_actors.cli_ledger import add_parsers as add_ledger_parsers

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong settings or arguments."""
    args = _parser().parse_args(argv)
    from attr_actors.errors import AttrError, BadSettings, RequestError

    try:
        return int(args.run(args))
    except BadSettings as exc:
        print("Settings are wrong:\n  " + exc.message.replace("\n", "\n  "), file=sys.stderr)
        return EXIT_USAGE
    except AttrError as exc:
        print(f"nvrx-attrsvc: {exc.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(exc, RequestError) else EXIT_FAILED
    except BrokenPipeError:  # The reader of our output has seen enough.
        sys.stderr.close()
        return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nvrx-attrsvc",
        description="Why a training job died, on which node, with the lines that prove it. Without a command: serve.",
        epilog="example: nvrx-attrsvc analyze /logs/slurm-1234.out",
    )
    parser.add_argument("--version", action="version", version=f"attr-actors {attr_actors.__version__}")
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serve = commands.add_parser("serve", help="start the HTTP service (starts a local Ray, or joins RAY_ADDRESS)")
    serve.set_defaults(run=_serve)
    analyze = commands.add_parser("analyze", help="attribute log files here and now, without a service")
    analyze.add_argument("files", nargs="+", metavar="FILE")
    analyze.add_argument("--json", action="store_true", help="one JSON object per file and line: log_path, attribution")
    analyze.set_defaults(run=_analyze)
    config = commands.add_parser("config", help="show the effective settings, secrets masked, and where each came from")
    config.add_argument("--json", action="store_true")
    config.set_defaults(run=_config)
    demo = commands.add_parser("demo", help="serve sample logs on a local Ray and show their attributions")
    demo.add_argument("--once", action="store_true", help="stop after the answers")
    demo.set_defaults(run=_demo)
    add_keys_parsers(commands)
    add_ledger_parsers(commands)
    return parser


def _serve(args: argparse.Namespace) -> int:
    from attr_actors.settings import Settings
    from serve_app.launch import serve_until_stopped

    serve_until_stopped(Settings.load(), say=_say)
    return EXIT_OK


def _demo(args: argparse.Namespace) -> int:
    from serve_app.demo import run_demo

    run_demo(once=args.once, say=_say)
    return EXIT_OK


def _analyze(args: argparse.Namespace) -> int:
    from attr_actors.local import attribute_files

    width = _width()
    failures = 0
    for row in attribute_files(args.files):
        failures += row.error is not None
        print(row.render_json() if args.json else row.render_text(width), flush=True)
    return EXIT_FAILED if failures else EXIT_OK


def _config(args: argparse.Namespace) -> int:
    from attr_actors.settings import Settings, env_name, masked, origins

    settings = Settings.load()
    where = origins(settings, {})
    rows: list[dict[str, Any]] = [{"name": env_name(k), "value": v, "origin": where[k]} for k, v in masked(settings).items()]
    if args.json:
        print(json.dumps(rows))
        return EXIT_OK
    name_width = max(len(r["name"]) for r in rows)
    for row in rows:
        print(f"{row['name']:{name_width}}  {'-' if row['value'] in ('', None) else row['value']}  ({row['origin']})")
    return EXIT_OK


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
