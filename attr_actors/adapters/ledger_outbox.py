"""The outbox's statements: which deliveries are owed, to whom, since when. Each runs inside a transaction of the ledger.

Hold in mind: a row exists while its delivery is owed and no longer. A changed answer replaces the row by one with a new
number, so that the settling of the old one, still under way, cannot settle the new one.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from attr_actors.core.entries import concerns, is_news, topic_key
from attr_actors.models import Action, Delivery, Entry, Outcome

LEASABLE = """
SELECT o.id, o.sink, o.attempts + 1, r.receipt, a.header, a.requester, e.wl_restart, e.attribution,
       (SELECT count(*) FROM entries WHERE analysis_id = a.id)
FROM outbox o JOIN entries e ON e.id = o.entry_id JOIN analyses a ON a.id = e.analysis_id
LEFT JOIN receipts r ON r.sink = o.sink AND r.topic = o.topic
WHERE o.sink = ? AND o.state <> 'parked' AND o.due_at <= ? ORDER BY o.due_at, o.id LIMIT ?
"""
STORED = """
SELECT e.id, a.header, a.requester, e.wl_restart, e.attribution, (SELECT count(*) FROM entries WHERE analysis_id = a.id)
FROM entries e JOIN analyses a ON a.id = e.analysis_id WHERE a.newest
"""


def owe(
    tx: sqlite3.Connection, entry_id: int, entry: Entry, sinks: tuple[str, ...], before: tuple[Action, str] | None, content: str, now: float
) -> None:
    """Add the deliveries that a stored entry causes, and withdraw those it no longer deserves."""
    after = (entry.attribution.action, content)
    for sink in sinks:
        news = is_news(sink, before, after)
        if before is not None and (news or not concerns(sink, after[0])):
            tx.execute("DELETE FROM outbox WHERE entry_id = ? AND sink = ?", (entry_id, sink))
        if news:
            tx.execute(
                "INSERT INTO outbox (entry_id, sink, topic, due_at, created_at) VALUES (?, ?, ?, ?, ?)",
                (entry_id, sink, topic_key(entry), now, now),
            )


def lease(tx: sqlite3.Connection, sink: str, limit: int, until: float, now: float) -> tuple[Delivery, ...]:
    """Take due deliveries of a sink, oldest first, and make them due again at ``until``."""
    rows = tx.execute(LEASABLE, (sink, now, limit)).fetchall()
    tx.executemany(
        "UPDATE outbox SET state = 'leased', attempts = attempts + 1, due_at = ? WHERE id = ?", ((until, row[0]) for row in rows)
    )
    return tuple(_delivery(row) for row in rows)


def has_due(tx: sqlite3.Connection, sink: str, now: float) -> bool:
    """Tell whether anything is due, without writing."""
    found = tx.execute("SELECT 1 FROM outbox WHERE sink = ? AND state <> 'parked' AND due_at <= ? LIMIT 1", (sink, now)).fetchone()
    return found is not None


def settle(tx: sqlite3.Connection, outcomes: tuple[Outcome, ...], now: float) -> None:
    """Remove, postpone or park deliveries; outcomes of replaced or dropped ones have no effect."""
    done = [o for o in outcomes if o.state == "done"]
    tx.executemany(
        "INSERT OR IGNORE INTO receipts SELECT sink, topic, ?, ? FROM outbox WHERE id = ?",
        ((o.receipt, now, o.delivery_id) for o in done if o.receipt),
    )
    tx.executemany("DELETE FROM outbox WHERE id = ?", ((o.delivery_id,) for o in done))
    tx.executemany(
        "UPDATE outbox SET state = ?, due_at = ?, reason = ? WHERE id = ?",
        (
            ("parked" if o.state == "parked" else "waiting", now + (o.delay_s or 0.0), o.reason, o.delivery_id)
            for o in outcomes
            if o.state != "done"
        ),
    )


def drop_older(tx: sqlite3.Connection, created_at: float, limit: int) -> int:
    """Forget deliveries created before an instant; return how many. Numbers grow with time, so the first rows tell."""
    return tx.execute(
        "DELETE FROM outbox WHERE created_at < ? AND id IN (SELECT id FROM outbox ORDER BY id LIMIT ?)", (created_at, limit)
    ).rowcount


def rows(tx: sqlite3.Connection, sink: str | None, state: str | None, limit: int, now: float) -> list[tuple[Any, ...]]:
    """Return number, sink, state, attempts, age, path, workload restart and reason of deliveries, oldest first."""
    return tx.execute(
        "SELECT o.id, o.sink, o.state, o.attempts, ? - o.created_at, a.path, e.wl_restart, o.reason"
        " FROM outbox o JOIN entries e ON e.id = o.entry_id JOIN analyses a ON a.id = e.analysis_id"
        " WHERE (?2 IS NULL OR o.sink = ?2) AND (?3 IS NULL OR o.state = ?3) ORDER BY o.id LIMIT ?4",
        (now, sink, state, limit),
    ).fetchall()


def retry(tx: sqlite3.Connection, sink: str | None, numbers: tuple[int, ...], now: float) -> int:
    """Make the chosen deliveries due at once, as if never tried; return how many."""
    return _on_chosen(tx, "UPDATE outbox SET state = 'waiting', attempts = 0, due_at = ?1, reason = ''", sink, numbers, now)


def drop(tx: sqlite3.Connection, sink: str | None, numbers: tuple[int, ...]) -> int:
    """Forget the chosen deliveries; return how many."""
    return _on_chosen(tx, "DELETE FROM outbox", sink, numbers, 0.0)


def _on_chosen(tx: sqlite3.Connection, statement: str, sink: str | None, numbers: tuple[int, ...], now: float) -> int:
    """Act on the numbered deliveries, or on all parked ones where no number is given, of one sink or all."""
    chosen = "id IN (SELECT value FROM json_each(?2))" if numbers else "state = 'parked' AND ?2 = '[]'"
    return tx.execute(
        f"{statement} WHERE {chosen} AND (?3 IS NULL OR sink = ?3) AND ?1 IS NOT NULL", (now, json.dumps(numbers), sink)
    ).rowcount


def backfill(tx: sqlite3.Connection, sink: str, now: float) -> int:
    """Owe a sink each stored entry that concerns it and is not owed already; return how many."""
    owed = 0
    for entry_id, *parts in tx.execute(STORED).fetchall():
        entry = _entry(*parts)
        if concerns(sink, entry.attribution.action):
            owed += tx.execute(
                "INSERT OR IGNORE INTO outbox (entry_id, sink, topic, due_at, created_at) VALUES (?, ?, ?, ?, ?)",
                (entry_id, sink, topic_key(entry), now, now),
            ).rowcount
    return owed


def counts(tx: sqlite3.Connection, sinks: tuple[str, ...], now: float) -> dict[str, float]:
    """Return depth per sink and state, and the age of the oldest delivery owed, s."""
    found: dict[str, float] = {f"outbox.{sink}.{name}": 0.0 for sink in sinks for name in ("waiting", "leased", "parked", "oldest_s")}
    for sink, state, number, oldest in tx.execute("SELECT sink, state, count(*), min(created_at) FROM outbox GROUP BY sink, state"):
        found[f"outbox.{sink}.{state}"] = number
        if state != "parked":
            found[f"outbox.{sink}.oldest_s"] = max(found.get(f"outbox.{sink}.oldest_s", 0.0), now - oldest)
    return found


def _delivery(row: tuple[Any, ...]) -> Delivery:
    delivery_id, sink, attempts, receipt, *parts = row
    return Delivery(delivery_id=delivery_id, sink=sink, attempts=attempts, receipt=receipt, entry=_entry(*parts))


def _entry(header: str, requester: str, wl_restart: int, attribution: str, cycles: int) -> Entry:
    return Entry.model_validate_json(
        f'{header[:-1]},"requester":{requester},"wl_restart":{wl_restart},"cycles":{cycles},"attribution":{attribution}}}'
    )
