"""The ledger's tables, and opening a database that holds them.

Hold in mind: SQLite in WAL mode with synchronous=FULL makes a commit durable before it returns, and
locking_mode=EXCLUSIVE, set before the first access, keeps the index of the WAL in memory instead of a shared file.
"""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import quote

from attr_actors.errors import LedgerFault

APPLICATION_ID = 0x41545452
"""``ATTR`` in ASCII: tells our file from another program's."""
MIGRATIONS: tuple[str, ...] = ()
"""What takes a file of schema 1, 2, ... to the next one: SQL statements. ``SCHEMA`` is always the newest; a new file needs no migration."""
SCHEMA_VERSION = 1 + len(MIGRATIONS)

SCHEMA = f"""
CREATE TABLE analyses (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    engine TEXT NOT NULL,
    newest INTEGER NOT NULL,
    recorded_at REAL NOT NULL,
    header TEXT NOT NULL,
    requester TEXT NOT NULL,
    UNIQUE (path, size, mtime_ns, engine)
);
CREATE INDEX analyses_superseded ON analyses (recorded_at) WHERE NOT newest;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    analysis_id INTEGER NOT NULL REFERENCES analyses (id) ON DELETE CASCADE,
    wl_restart INTEGER NOT NULL,
    action TEXT NOT NULL,
    attribution TEXT NOT NULL,
    UNIQUE (analysis_id, wl_restart)
);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    entry_id INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    sink TEXT NOT NULL,
    topic TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'leased', 'parked')),
    due_at REAL NOT NULL,
    created_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (entry_id, sink)
);
CREATE INDEX outbox_due ON outbox (sink, due_at) WHERE state <> 'parked';
CREATE TABLE receipts (
    sink TEXT NOT NULL,
    topic TEXT NOT NULL,
    receipt TEXT NOT NULL,
    received_at REAL NOT NULL,
    PRIMARY KEY (sink, topic)
) WITHOUT ROWID;
CREATE TABLE attempts (
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    engine TEXT NOT NULL,
    started INTEGER NOT NULL,
    started_at REAL NOT NULL,
    PRIMARY KEY (path, size, mtime_ns, engine)
) WITHOUT ROWID;
CREATE TABLE replies (key TEXT PRIMARY KEY, body TEXT NOT NULL, tokens INTEGER NOT NULL, stored_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX replies_by_time ON replies (stored_at);
CREATE TABLE jobs (path TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

UNREADABLE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def open_database(path: str) -> sqlite3.Connection:
    """Open the ledger or make a new one. Raises LedgerFault for a foreign or newer file, sqlite3.DatabaseError if unreadable, OSError."""
    # Answers cite logs, which are not for everybody; the write-ahead log takes over the mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False, cached_statements=256)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # Fewer, larger checkpoints: each one rewrites the same hot pages and waits for the disk.
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA cache_size = -32768")
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        _bring_forward(connection, _checked_version(connection, path))
    except BaseException:
        connection.close()
        raise
    return connection


def open_at_rest(path: str) -> sqlite3.Connection:
    """Open the ledger of a stopped service for queries alone. Raises LedgerFault for none, a foreign or newer one; sqlite3.Error; OSError.

    No file is written or made; SQLite removes a write-ahead log only if nothing in it was ever committed.
    """
    if os.stat(path).st_size == 0:
        raise FileNotFoundError
    has_log = os.path.exists(path + "-wal") and os.path.getsize(path + "-wal") > 0
    # SQLite's own locks would need a file for them. With a log it must be told of no locks, without one of no changes.
    how = "vfs=unix-none" if has_log else "immutable=1"
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&{how}", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _checked_version(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _checked_version(connection: sqlite3.Connection, path: str) -> int:
    application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if application != APPLICATION_ID:
        raise LedgerFault(f"'{path}' is a database of another program; name another file")
    if not 1 <= version <= SCHEMA_VERSION:
        raise LedgerFault(f"'{path}' has ledger schema {version}, this version reads up to {SCHEMA_VERSION}; use the version that wrote it")
    return int(version)


def _bring_forward(connection: sqlite3.Connection, version: int) -> None:
    """Take an older file to the newest schema, all steps or none."""
    steps = MIGRATIONS[version - 1 :]
    if steps:
        connection.executescript(f"BEGIN IMMEDIATE; {' '.join(steps)} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def is_unreadable(exc: sqlite3.Error) -> bool:
    """Tell whether SQLite says that the file is damaged or no database."""
    # The low byte of an extended code is its class.
    return (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF in UNREADABLE
