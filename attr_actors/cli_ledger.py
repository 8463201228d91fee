"""``nvrx-attrsvc ledger ...`` and ``outbox ...``: what an operator does with the ledger while the service is stopped.

Hold in mind: one process writes the ledger. A running service holds it, and these commands then say so and change
nothing; what they would show is in GET /stats. Commands that only show open it at rest, so that a damaged one stays as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attr_actors.cli_output import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from attr_actors.adapters.ledger_db import LedgerDb
    from attr_actors.settings import Settings

LIST_MAX = 1000


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands ``ledger`` and ``outbox``; each sets ``run(args) -> exit code``."""
    ledger = commands.add_parser("ledger", help="export, import, verify or vacuum the ledger of a stopped service").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add(ledger, "export", _export, "write the answers as the predecessor's JSON").add_argument("file", metavar="FILE")
    _add(ledger, "import", _import, "take over the answers of a JSON ledger").add_argument("file", metavar="FILE")
    _add(ledger, "verify", _verify, "check the file and change nothing; exit code 1 if anything is wrong")
    _add(ledger, "vacuum", _vacuum, "give unused space back to the file system")
    outbox = commands.add_parser("outbox", help="look after the deliveries of a stopped service").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    listing = _add(outbox, "list", _list, "show deliveries that are owed, oldest first")
    listing.add_argument("--sink")
    listing.add_argument("--state", choices=("waiting", "leased", "parked"))
    listing.add_argument("--limit", type=int, default=100, help=f"at most {LIST_MAX} (default 100)")
    listing.add_argument("--json", action="store_true", help="one JSON object per line")
    for name, run, told in (("retry", _retry, "try parked deliveries again"), ("drop", _drop, "forget parked deliveries")):
        command = _add(outbox, name, run, f"{told}: those with these numbers, or all")
        command.add_argument("numbers", nargs="*", type=int, metavar="NUMBER")
        command.add_argument("--all", action="store_true", help="all that are parked")
        command.add_argument("--sink")
    _add(outbox, "backfill", _backfill, "send a sink every stored answer that it was not sent").add_argument("sink")


def _add(commands: Any, name: str, run: Any, told: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=told, description=told)
    command.set_defaults(run=run)
    return command


@contextlib.contextmanager
def _opened(at_rest: bool = False) -> Iterator[tuple[LedgerDb, Settings]]:
    """Open the ledger of the effective settings, ``at_rest`` to change nothing. Raises LedgerInUse if the service runs, LedgerFault."""
    from attr_actors.adapters.ledger_db import LedgerDb
    from attr_actors.errors import LedgerInUse
    from attr_actors.settings import Settings

    settings = Settings.load()
    try:
        db = LedgerDb(settings.ledger_file, at_rest=at_rest)
    except LedgerInUse as exc:
        raise LedgerInUse(
            f"{exc.message}\nIf that is the running service, stop it first; GET /stats shows its ledger and outbox."
        ) from None
    try:
        yield db, settings
    finally:
        db.close()


def _export(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import export_json

    with _opened(at_rest=True) as (db, _):
        print(f"exported {export_json(db, args.file)} answers to {args.file}")
    return EXIT_OK


def _import(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import import_json

    with _opened() as (db, settings):
        counts = import_json(db, args.file, settings.allowed_root, time.time(), settings.entry_age_max_s)
    for name, number in counts.items():
        print(f"{name.replace('_', ' ')}: {number}")
    return EXIT_OK


def _verify(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import verify

    with _opened(at_rest=True) as (db, _):
        problems = verify(db)
        counts = db.counts((), time.time())
    for problem in problems:
        print(problem)
    print(f"{int(counts['persistence.entries'])} entries of {int(counts['persistence.analyses'])} logs: {len(problems) or 'no'} problems")
    if problems:
        print("The service would start with it as it is, and set it aside only where it cannot be read at all.")
    return EXIT_FAILED if problems else EXIT_OK


def _vacuum(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import vacuum

    with _opened() as (db, _):
        before, after = vacuum(db)
    print(f"{before} bytes before, {after} bytes after")
    return EXIT_OK


def _list(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import list_deliveries

    with _opened(at_rest=True) as (db, _):
        rows = list_deliveries(db, args.sink, args.state, min(args.limit, LIST_MAX), time.time())
    for row in rows:
        if args.json:
            print(json.dumps(row._asdict()))
        else:
            tried = f"{row.attempts} tries in {row.age_s / 3600:.1f} h"
            print(f"{row.delivery_id:>8}  {row.sink:<14} {row.state:<8} {tried:<22} {row.path} [{row.wl_restart}]  {row.reason}")
    if not rows and not args.json:
        print("nothing is owed")
    return EXIT_OK


def _retry(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import retry_deliveries

    numbers = _chosen(args)
    with _opened() as (db, _):
        print(f"{retry_deliveries(db, args.sink, numbers, time.time())} deliveries are due again")
    return EXIT_OK


def _drop(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import drop_deliveries

    numbers = _chosen(args)
    with _opened() as (db, _):
        print(f"{drop_deliveries(db, args.sink, numbers)} deliveries were dropped")
    return EXIT_OK


def _backfill(args: argparse.Namespace) -> int:
    from attr_actors.adapters.ledger_upkeep import backfill
    from attr_actors.errors import InvalidParameter

    with _opened() as (db, settings):
        if args.sink not in settings.sink_names:
            raise InvalidParameter(f"the sink '{args.sink}' is not configured (configured: {', '.join(settings.sink_names) or 'none'})")
        print(f"{backfill(db, args.sink, time.time())} deliveries are owed to {args.sink}")
    return EXIT_OK


def _chosen(args: argparse.Namespace) -> tuple[int, ...]:
    from attr_actors.errors import InvalidParameter

    if bool(args.numbers) == args.all:
        raise InvalidParameter("name the deliveries by number, or say --all")
    return tuple(args.numbers)
