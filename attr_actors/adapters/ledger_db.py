"""The ledger on SQLite: analyses and their entries, attempts, jobs and the outbox. One transaction per public method.

Hold in mind: whatever returns is on disk, and whatever raises has changed nothing. Times come from the caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from attr_actors.adapters import ledger_outbox as outbox
from attr_actors.adapters import ledger_replies as replies
from attr_actors.adapters.ledger_at_rest import LedgerAtRest
from attr_actors.adapters.ledger_file import LedgerFile
from attr_actors.core.entries import content_of, entries_of
from attr_actors.models import Action, Analysis, Delivery, Entry, Outcome, Recording, Requester, Snapshot, StoredReply

SWEEP_EVERY_S = 10.0
"""Eviction rides on recording: no clock of its own, and a write every so often pays for it."""
SWEEP_ROWS = 500
"""Most analyses evicted at a time, so that a record never waits long for it."""
SWEEP_WINDOW = 2000
"""Analyses looked at per sweep: 100,000 are gone through in ten minutes."""

NOBODY = Requester().model_dump_json()
TABLES = ("analyses", "entries", "jobs", "attempts")

LOOKUP = """
SELECT a.header, e.attribution FROM analyses a LEFT JOIN entries e ON e.analysis_id = a.id
WHERE a.path = ? AND a.newest ORDER BY e.wl_restart
"""
EVICT = f"""
DELETE FROM analyses WHERE id IN (
    SELECT a.id FROM analyses a WHERE {{}} AND a.recorded_at < ?
    AND NOT EXISTS (SELECT 1 FROM entries e JOIN outbox o ON o.entry_id = e.id WHERE e.analysis_id = a.id) LIMIT {SWEEP_ROWS})
"""


class LedgerDb:
    """One open ledger file and the right to write it."""

    def __init__(self, path: str, lock_wait_s: float = 0.0, take_over: bool = False, at_rest: bool = False) -> None:
        """Open or make the file, or ask its owner for it. Raises LedgerFault if it is foreign, newer, in use, or cannot be made.

        ``at_rest``: open it for queries alone, and change nothing.
        """
        self.file = LedgerAtRest(path) if at_rest else LedgerFile(path, lock_wait_s, take_over)
        self._swept_at = 0.0
        self._swept_id = 0

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def lookup(self, path: str) -> Analysis | None:
        """Return the newest analysis of a path, with all its cycles."""
        with self.file.reading() as connection:
            return _lookup(connection, path)

    def lookup_many(self, paths: tuple[str, ...]) -> tuple[Analysis | None, ...]:
        """Return the newest analysis of each path, in the order of the paths."""
        with self.file.reading() as connection:
            return tuple(_lookup(connection, path) for path in paths)

    def record(self, recordings: tuple[Recording, ...], sinks: tuple[str, ...], now: float) -> None:
        """Store analyses with the deliveries they cause."""
        with self.file.writing() as tx:
            for recording in recordings:
                self._record(tx, recording, sinks, now)

    def import_analyses(self, recordings: Iterable[Recording], now: float) -> tuple[int, int]:
        """Store analyses of paths that have none, owing nothing to any sink; return how many were new and how many were known."""
        new = known = 0
        with self.file.writing() as tx:
            for recording in recordings:
                path = recording.analysis.snapshot.path
                if tx.execute("SELECT 1 FROM analyses WHERE path = ? AND newest", (path,)).fetchone():
                    known += 1
                else:
                    self._record(tx, recording, (), now)
                    new += 1
        return new, known

    def recordings(self) -> Iterator[Recording]:
        """Yield the newest analysis of each path with its requester, in path order."""
        after = ""
        while page := self._page(after):
            yield from page
            after = page[-1].analysis.snapshot.path

    def begin_attempt(self, snapshot: Snapshot, engine: str, now: float) -> int:
        """Count one more analysis of this content, and return the number since it was last recorded."""
        with self.file.writing() as tx:
            row = tx.execute(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE"
                " SET started = started + 1, started_at = excluded.started_at RETURNING started",
                (snapshot.path, snapshot.size, snapshot.mtime_ns, engine, now),
            ).fetchone()
        return int(row[0])

    def load_jobs(self, after_path: str, limit: int) -> tuple[str, ...]:
        """Return up to ``limit`` saved jobs in path order."""
        with self.file.reading() as connection:
            return tuple(
                row[0] for row in connection.execute("SELECT body FROM jobs WHERE path > ? ORDER BY path LIMIT ?", (after_path, limit))
            )

    def save_jobs(self, jobs: tuple[tuple[str, str], ...], forget: tuple[str, ...]) -> None:
        """Store and drop jobs."""
        with self.file.writing() as tx:
            tx.executemany("INSERT INTO jobs VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body", jobs)
            tx.executemany("DELETE FROM jobs WHERE path = ?", ((path,) for path in forget))

    def lease(self, sink: str, limit: int, lease_s: float, now: float) -> tuple[Delivery, ...]:
        """Lease due deliveries; writes nothing when none is due."""
        with self.file.reading() as connection:
            if not outbox.has_due(connection, sink, now):
                return ()
        with self.file.writing() as tx:
            return outbox.lease(tx, sink, limit, now + lease_s, now)

    def settle(self, outcomes: tuple[Outcome, ...], now: float) -> None:
        """Write down what became of deliveries."""
        with self.file.writing() as tx:
            outbox.settle(tx, outcomes, now)

    def find_reply(self, key: str) -> StoredReply | None:
        """Return the model's reply to a question."""
        with self.file.reading() as connection:
            return replies.find(connection, key)

    def save_reply(self, reply: StoredReply) -> None:
        """Keep a model's reply."""
        with self.file.writing() as tx:
            replies.save(tx, reply)

    def tokens_since(self, at: float) -> int:
        """Return the tokens of the replies stored since an instant."""
        with self.file.reading() as connection:
            return replies.tokens_since(connection, at)

    def counts(self, sinks: tuple[str, ...], now: float) -> dict[str, float]:
        """Return rows per table, bytes on disk, and the outbox per sink."""
        with self.file.reading() as connection:
            found = {f"persistence.{table}": float(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in TABLES}
            pages, page_bytes = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            return {**found, "persistence.bytes": float(pages * page_bytes), **outbox.counts(connection, sinks, now)}

    def sweep(self, now: float, age_max_s: float, grace_s: float, keep_max_s: float) -> dict[str, int]:
        """Evict, if it is time: entries of old logs, superseded ones, deliveries and receipts nobody waits for; return counts."""
        if 0 <= now - self._swept_at < SWEEP_EVERY_S:
            return {}
        self._swept_at = now
        with self.file.writing() as tx:
            window = self._next_window(tx)
            oldest_ns = int((now - age_max_s) * 1e9)
            swept = {
                "outbox.dropped": outbox.drop_older(tx, now - keep_max_s, SWEEP_ROWS),
                "cleanup.cache_expired": tx.execute(
                    EVICT.format("a.id > ? AND a.id <= ? AND a.mtime_ns < ?"), (*window, oldest_ns, now - grace_s)
                ).rowcount,
                "cleanup.cache_superseded": tx.execute(EVICT.format("NOT a.newest"), (now - grace_s,)).rowcount,
            }
            tx.execute("DELETE FROM receipts WHERE received_at < ?", (now - keep_max_s,))
            replies.sweep(tx, now - age_max_s)
            tx.execute("DELETE FROM attempts WHERE started_at < ?", (now - age_max_s,))
        if max(swept.values()) >= SWEEP_ROWS:
            self._swept_at = 0.0
        return swept

    def _next_window(self, tx: sqlite3.Connection) -> tuple[int, int]:
        """Return the next range of analyses to look through for old logs; an index would cost each record a page."""
        first = self._swept_id
        last = tx.execute(
            "SELECT max(id) FROM (SELECT id FROM analyses WHERE id > ? ORDER BY id LIMIT ?)", (first, SWEEP_WINDOW)
        ).fetchone()[0]
        self._swept_id = last or 0
        return first, self._swept_id

    def _page(self, after: str) -> list[Recording]:
        with self.file.reading() as connection:
            rows = connection.execute(
                "SELECT path, requester FROM analyses WHERE newest AND path > ? ORDER BY path LIMIT 100", (after,)
            ).fetchall()
        found = ((self.lookup(path), Requester.model_validate_json(requester)) for path, requester in rows)
        return [Recording(analysis=analysis, requester=requester) for analysis, requester in found if analysis]

    def _record(self, tx: sqlite3.Connection, recording: Recording, sinks: tuple[str, ...], now: float) -> None:
        seen = recording.analysis.snapshot
        key = (seen.path, seen.size, seen.mtime_ns, recording.analysis.engine)
        asked = recording.requester.model_dump_json()
        header = recording.analysis.model_dump_json(exclude={"cycles"})
        tx.execute("UPDATE analyses SET newest = 0 WHERE path = ? AND newest", (seen.path,))
        analysis_id, requester = tx.execute(
            "INSERT INTO analyses (path, size, mtime_ns, engine, newest, recorded_at, header, requester) VALUES (?, ?, ?, ?, 1, ?, ?, ?)"
            # A refresh that nobody asked for by name keeps the names of the one that did.
            " ON CONFLICT DO UPDATE SET newest = 1, recorded_at = excluded.recorded_at, header = excluded.header,"
            " requester = CASE excluded.requester WHEN ? THEN requester ELSE excluded.requester END RETURNING id, requester",
            (*key, now, header, asked, NOBODY),
        ).fetchone()
        if requester != asked:
            recording = Recording(analysis=recording.analysis, requester=Requester.model_validate_json(requester))
        for entry in entries_of(recording):
            self._store(tx, analysis_id, entry, sinks, now)
        tx.execute("DELETE FROM entries WHERE analysis_id = ? AND wl_restart >= ?", (analysis_id, len(recording.analysis.cycles)))
        tx.execute("DELETE FROM attempts WHERE path = ? AND size = ? AND mtime_ns = ? AND engine = ?", key)

    def _store(self, tx: sqlite3.Connection, analysis_id: int, entry: Entry, sinks: tuple[str, ...], now: float) -> None:
        content = content_of(entry.attribution)
        old = tx.execute(
            "SELECT action, attribution FROM entries WHERE analysis_id = ? AND wl_restart = ?", (analysis_id, entry.wl_restart)
        ).fetchone()
        row = tx.execute(
            "INSERT INTO entries (analysis_id, wl_restart, action, attribution) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET action = excluded.action, attribution = excluded.attribution RETURNING id",
            (analysis_id, entry.wl_restart, entry.attribution.action, content),
        ).fetchone()
        outbox.owe(tx, row[0], entry, sinks, (Action(old[0]), old[1]) if old else None, content, now)


def _lookup(connection: sqlite3.Connection, path: str) -> Analysis | None:
    # A name that is not UTF-8 cannot have been stored.
    rows = connection.execute(LOOKUP, (path.encode(errors="replace").decode(),)).fetchall()
    if not rows:
        return None
    return Analysis.model_validate_json(f'{rows[0][0][:-1]},"cycles":[{",".join(row[1] for row in rows if row[1])}]}}')
