"""``nvrx-attrsvc``: the command line. Each group of commands is a module with ``add_parsers()``; heavy imports wait for their command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import attr_actors
from attr_actors import (
    cli_analyze,
    cli_batch,
    cli_completion,
    cli_jobs,
    cli_keys,
    cli_ledger,
    cli_mcp,
    cli_monitor,
    cli_remote,
    cli_serve,
    cli_signatures,
    cli_snapshot,
)
from attr_actors.cli_output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, HelpFormatter

GROUPS = (
    cli_serve,
    cli_analyze,
    cli_batch,
    cli_remote,
    cli_jobs,
    cli_keys,
    cli_ledger,
    cli_signatures,
    cli_snapshot,
    cli_monitor,
    cli_mcp,
    cli_completion,
)

EPILOG = """\
examples:
  nvrx-attrsvc analyze /logs/slurm-1234.out       why did this job die?
  NVRX_ATTRSVC_ALLOWED_ROOT=/logs nvrx-attrsvc    serve, on 127.0.0.1:8000
  nvrx-attrsvc result /logs/slurm-1234.out        ask the service

exit codes: 0 done; 1 failed; 2 wrong arguments or settings; 3 done, with faults that were shown; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    from attr_actors.errors import AttrError, BadSettings, RequestError

    try:
        return int(args.run(args))
    except BadSettings as exc:
        print("Settings are wrong:\n  " + exc.message.replace("\n", "\n  "), file=sys.stderr)
        return EXIT_USAGE
    except AttrError as exc:
        print(f"nvrx-attrsvc: {exc.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(exc, RequestError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # The reader of our output has seen enough.
        sys.stderr.close()
        return EXIT_OK


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="nvrx-attrsvc",
        description="Why a training job died, on which node, with the lines that prove it. Without a command: serve.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"attr-actors {attr_actors.__version__}")
    parser.set_defaults(run=cli_serve.run_serve)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for commands_of in GROUPS:
        commands_of.add_parsers(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
