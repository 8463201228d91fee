"""The outbox's statements: which deliveries are owed, to whom, since when. Each runs inside a transaction of the ledger.

Hold in mind: a row exists while its delivery is owed and no longer. A changed answer replaces the row by one with a new
number, so that the settling of the old one, still under way, cannot settle the new one.
"""

from __future__ import annotations

import sqlite3

from attr_actors.core.entries import concerns, is_news, topic_key
from attr_actors.models import Action, Delivery, Entry, Outcome

LEASABLE = """
SELECT o.id, o.sink, o.attempts + 1, r.receipt, a.header, a.requester, e.wl_restart, e.attribution,
       (SELECT count(*) FROM entries WHERE analysis_id = a.id)
FROM outbox o JOIN entries e ON e.id = o.entry_id JOIN analyses a ON a.id = e.analysis_id
LEFT JOIN receipts r ON r.sink = o.sink AND r.topic = o.topic
WHERE o.sink = ? AND o.state <> 'parked' AND o.due_at <= ? ORDER BY o.due_at, o.id LIMIT ?
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


def counts(tx: sqlite3.Connection, sinks: tuple[str, ...], now: float) -> dict[str, float]:
    """Return depth per sink and state, and the age of the oldest delivery owed, s."""
    found: dict[str, float] = {f"outbox.{sink}.{name}": 0.0 for sink in sinks for name in ("waiting", "leased", "parked", "oldest_s")}
    for sink, state, number, oldest in tx.execute("SELECT sink, state, count(*), min(created_at) FROM outbox GROUP BY sink, state"):
        found[f"outbox.{sink}.{state}"] = number
        if state != "parked":
            found[f"outbox.{sink}.oldest_s"] = max(found.get(f"outbox.{sink}.oldest_s", 0.0), now - oldest)
    return found


def _delivery(row: tuple[object, ...]) -> Delivery:
    delivery_id, sink, attempts, receipt, header, requester, wl_restart, attribution, cycles = row
    entry = f'{str(header)[:-1]},"requester":{requester},"wl_restart":{wl_restart},"cycles":{cycles},"attribution":{attribution}}}'
    return Delivery(delivery_id=delivery_id, sink=sink, attempts=attempts, receipt=receipt, entry=Entry.model_validate_json(entry))
