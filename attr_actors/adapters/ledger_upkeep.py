"""What an operator does with a ledger: import, export, verify, vacuum, and look after the outbox."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from attr_actors.adapters import ledger_outbox as outbox
from attr_actors.adapters.ledger_db import LedgerDb
from attr_actors.adapters.ledger_file import free_name
from attr_actors.adapters.ledger_json import COUNTERS, read_entries, standing, write_entries
from attr_actors.errors import LedgerFault
from attr_actors.models import Attribution

log = logging.getLogger(__name__)


class OutboxRow(NamedTuple):
    """A delivery as an operator sees it."""

    delivery_id: int
    sink: str
    state: str
    attempts: int
    age_s: float
    path: str
    wl_restart: int
    reason: str


def import_json(db: LedgerDb, source: str, root: str, now: float, age_max_s: float) -> dict[str, int]:
    """Take over the entries of a JSON ledger whose logs are as they were; return counts. Raises LedgerFault if it is none."""
    return _import(db, read_entries(source), root, now, age_max_s)


def finish_import(db: LedgerDb, root: str, now: float, age_max_s: float) -> dict[str, int]:
    """Import the predecessor's file that was found under the ledger's name, and keep it aside; do nothing if there is none.

    A crash on the way is made good by the next start: the file keeps waiting until the import is on disk.
    """
    waiting = db.file.import_path
    if not os.path.exists(waiting):
        return {}
    try:
        entries = read_entries(waiting)
    except LedgerFault as exc:
        aside = free_name(f"{db.file.path}.corrupt")
        os.replace(waiting, aside)
        db.file.issues["corrupt"] = f"{exc.message}; it was set aside as '{aside}' and a fresh ledger began"
        log.error("%s", db.file.issues["corrupt"])
        return {}
    counts = _import(db, entries, root, now, age_max_s)
    os.replace(waiting, free_name(f"{db.file.path}.imported"))
    return counts


def export_json(db: LedgerDb, target: str) -> int:
    """Write the newest analysis of each path as a JSON ledger that the predecessor and ``import_json`` read; return the number."""
    return write_entries(target, db.recordings())


def verify(db: LedgerDb) -> list[str]:
    """Check pages, indices and references, and that every answer can be read; return what is wrong."""
    with db.file.reading() as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        found += [f"row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in connection.execute("PRAGMA foreign_key_check")]
        paths = [row[0] for row in connection.execute("SELECT path FROM analyses WHERE newest")]
        texts = connection.execute(
            "SELECT e.id, e.attribution FROM entries e JOIN analyses a ON a.id = e.analysis_id WHERE NOT a.newest"
        ).fetchall()
    found += [f"the answer of '{path}' cannot be read" for path in paths if not _reads(db.lookup, path)]
    return found + [
        f"the superseded entry {number} cannot be read" for number, text in texts if not _reads(Attribution.model_validate_json, text)
    ]


def vacuum(db: LedgerDb) -> tuple[int, int]:
    """Give unused space back to the file system; return the bytes before and after."""
    with db.file.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = os.path.getsize(db.file.path)
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, os.path.getsize(db.file.path)


def list_deliveries(db: LedgerDb, sink: str | None, state: str | None, limit: int, now: float) -> list[OutboxRow]:
    """Return deliveries owed, oldest first."""
    with db.file.reading() as connection:
        return [OutboxRow(*row) for row in outbox.rows(connection, sink, state, limit, now)]


def retry_deliveries(db: LedgerDb, sink: str | None, numbers: tuple[int, ...], now: float) -> int:
    """Make deliveries (all parked ones without numbers) due at once, as if never tried; return how many."""
    with db.file.writing() as tx:
        return outbox.retry(tx, sink, numbers, now)


def drop_deliveries(db: LedgerDb, sink: str | None, numbers: tuple[int, ...]) -> int:
    """Forget deliveries (all parked ones without numbers); return how many."""
    with db.file.writing() as tx:
        return outbox.drop(tx, sink, numbers)


def backfill(db: LedgerDb, sink: str, now: float) -> int:
    """Owe a sink every stored entry that concerns it and is not owed already; return how many."""
    with db.file.writing() as tx:
        return outbox.backfill(tx, sink, now)


def _import(db: LedgerDb, entries: list[Any], root: str, now: float, age_max_s: float) -> dict[str, int]:
    counts: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
    new, known = db.import_analyses(standing(entries, root, now, age_max_s, counts), now)
    counts.update({"imported": new, "import_skipped_known": known})
    log.info("imported a JSON ledger: %s", dict(counts))
    return dict(counts)


def _reads(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True
