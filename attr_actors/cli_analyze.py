"""``nvrx-attrsvc analyze``: answers about files, here and now, with the rights of the caller."""

from __future__ import annotations

import argparse

from attr_actors.cli_output import EXIT_FAULTS, EXIT_OK, add_command, terminal_width, wants_colour


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    told = "attribute log files here and now, without a service"
    analyze = add_command(commands, "analyze", _analyze, told, "nvrx-attrsvc analyze slurm-*.out --json | jq .attribution.action")
    analyze.add_argument("files", nargs="+", metavar="FILE")
    analyze.add_argument("--json", action="store_true", help="one JSON object per file and line, as `batch` writes them")


def _analyze(args: argparse.Namespace) -> int:
    from attr_actors.core.terminal import plain, render_terminal
    from attr_actors.local import attribute_files

    width, colour = terminal_width(), wants_colour()
    faults = 0
    for row in attribute_files(args.files):
        faults += row.error is not None
        if args.json:
            print(row.model_dump_json(), flush=True)
        elif row.attribution:
            print(render_terminal(row.log_path, row.attribution, width, colour), flush=True)
        else:
            print(f"{plain(row.log_path)}  NOT ANALYSED: {plain(row.error or '')}", flush=True)
    return EXIT_FAULTS if faults else EXIT_OK
