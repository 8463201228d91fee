"""The ledger's replies of the model: kept so that the same question is not asked twice, and counted against the day's budget."""

from __future__ import annotations

import sqlite3

from attr_actors.models import StoredReply


def find(connection: sqlite3.Connection, key: str) -> StoredReply | None:
    """Return the reply to a question."""
    row = connection.execute("SELECT body FROM replies WHERE key = ?", (key,)).fetchone()
    return StoredReply.model_validate_json(row[0]) if row else None


def save(tx: sqlite3.Connection, reply: StoredReply) -> None:
    """Keep a reply; the same key again replaces it."""
    tokens = reply.tokens_in + reply.tokens_out
    tx.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", (reply.key, reply.model_dump_json(), tokens, reply.stored_at))


def tokens_since(connection: sqlite3.Connection, at: float) -> int:
    """Return the tokens of the replies stored since an instant."""
    return int(connection.execute("SELECT coalesce(sum(tokens), 0) FROM replies WHERE stored_at >= ?", (at,)).fetchone()[0])


def sweep(tx: sqlite3.Connection, before: float) -> None:
    """Drop replies stored before an instant."""
    tx.execute("DELETE FROM replies WHERE stored_at < ?", (before,))
