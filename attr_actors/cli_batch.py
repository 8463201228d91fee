"""``nvrx-attrsvc batch``: many logs, on a Ray cluster or on this machine."""

from __future__ import annotations

import argparse
import sys

from attr_actors.cli_output import EXIT_FAULTS, EXIT_OK, HelpFormatter

TOLD = "attribute many logs, spread over a Ray cluster or this machine's processors"
EXAMPLES = """\
TARGET is a directory (searched recursively), a glob in quotes, a file with one
path per line (or @FILE, or - for standard input), or one log. A run that was
stopped goes on where it was when it is started again. The rows of the results
are described in attr_actors/core/result_rows.py, the columns of a table in
attr_actors/core/table_rows.py. A model is asked with --model only: it takes
seconds for a log where the rules take milliseconds, and costs tokens. What it
has answered is not asked again; what it has not (degraded in the row) is, by
the next run with --model.

examples:
  nvrx-attrsvc batch /logs/2026-11 --out results.jsonl --local
  nvrx-attrsvc batch /logs/2026-11 --out results.jsonl --table results.parquet
  nvrx-attrsvc batch @failed.txt --out results.jsonl --model
  ray job submit --working-dir . -- \\
    nvrx-attrsvc batch '/logs/**/slurm-*.out' --out /logs/results.jsonl

exit codes: 0 every log is attributed; 3 done, but some logs could not be
analysed (their rows say why); 1 could not be done; 2 wrong arguments or
settings; 130 interrupted
"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    batch = commands.add_parser(
        "batch", help=TOLD, description=TOLD[0].upper() + TOLD[1:] + ".", epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    batch.set_defaults(run=_batch)
    batch.add_argument("target", metavar="TARGET", help="directory, glob, list of paths, or one log")
    batch.add_argument("--out", required=True, metavar="FILE", help="JSON Lines, one row per log; taken up again if it is there")
    batch.add_argument("--local", action="store_true", help="use this machine's processors and no Ray")
    batch.add_argument("--address", metavar="ADDRESS", help="Ray cluster; default: RAY_ADDRESS, else the one that runs here")
    batch.add_argument("--workers", type=int, metavar="N", help="logs analysed at a time; default: one per processor")
    batch.add_argument("--post", action="store_true", help="also send new answers to the configured sinks")
    batch.add_argument(
        "--model", action="store_true", help="ask the model for a second opinion where something may have failed; needs its key"
    )
    batch.add_argument("--report", metavar="FILE", help="also write an HTML report")
    batch.add_argument("--table", metavar="FILE", help="also write all rows as a table: FILE.parquet (needs pyarrow) or FILE.csv")
    batch.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def _batch(args: argparse.Namespace) -> int:
    import asyncio

    from attr_actors.batch import Plan, run_batch
    from attr_actors.batch_report import Progress, write_report
    from attr_actors.batch_table import check_table, write_table
    from attr_actors.core.summary import render_summary, summary_values
    from attr_actors.errors import InvalidParameter
    from attr_actors.settings import Settings

    if args.workers is not None and args.workers < 1:
        raise InvalidParameter("--workers must be at least 1")
    if args.table:
        check_table(args.table, args.out)
    plan = Plan(args.target, args.out, args.local, args.post, args.address, args.workers, args.model)
    progress = Progress(_tell, sys.stderr.isatty())
    run = asyncio.run(run_batch(plan, Settings.load(allowed_root="/"), progress.watch))
    if args.report:
        write_report(args.report, run.summary, args.target)
    if args.table:
        write_table(args.table, args.out)
    if args.json:
        import json

        print(json.dumps({**summary_values(run.summary), "kept": run.kept, "answered": run.answered, "owed": run.owed}))
    else:
        print(render_summary(run.summary))
        if run.owed:
            print(f"{run.owed} deliveries are still owed to the sinks; they wait in the ledger")
    return EXIT_FAULTS if run.summary.faults else EXIT_OK


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
