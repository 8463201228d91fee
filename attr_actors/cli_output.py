"""What all commands share towards the person at the terminal: exit codes, width, colour. Imports nothing heavy."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_FAULTS, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
"""Done; could not be done; wrong arguments or settings; done, with faults that were shown; Ctrl-C."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as written, and names of commands and options on the line of their help."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def add_command(commands: Any, name: str, run: Any, told: str, example: str = "") -> argparse.ArgumentParser:
    """Add a command with its one-line help and an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=told,
        description=told[:1].upper() + told[1:] + ".",
        epilog=f"example: {example}" if example else None,
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def terminal_width() -> int:
    """Return the width to write for: the terminal's, or what COLUMNS says."""
    return shutil.get_terminal_size((100, 24)).columns


def wants_colour() -> bool:
    """Tell whether standard output is a terminal that shows colours (NO_COLOR and TERM=dumb say no)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
