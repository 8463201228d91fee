"""The ledger's file: the right to write it, its transactions, and what happens when it is damaged, full or not ours.

Hold in mind: a transaction that returns is on disk, one that raises has changed nothing, and a writer that lost its
right finds out before its commit.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator

from pydantic_core import PydanticSerializationError

from attr_actors.adapters.ledger_lock import WriterLock, is_held
from attr_actors.adapters.ledger_schema import is_unreadable, open_database
from attr_actors.errors import InvalidPath, LedgerFault

log = logging.getLogger(__name__)

LOG = "-wal"
PARTS = (LOG, "-shm", "")
"""Endings of the files of one database; the database itself comes last, so that a half-done renaming is seen as such."""

LOCK = ".lock"


class LedgerFile:
    """One open ledger and the right to write it. ``issues`` is what an operator must mend, by kind."""

    def __init__(self, path: str, lock_wait_s: float, take_over: bool = False) -> None:
        """Open or make the file. Raises LedgerFault if it is foreign, of another schema, in use, or cannot be made.

        ``take_over``: ask a ledger that has the file for it.
        """
        self.path = path
        self.issues: dict[str, str] = {}
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
            self._lock = WriterLock(path + LOCK, lock_wait_s, take_over)
        except OSError as exc:
            raise LedgerFault(f"cannot open the ledger '{path}': {exc.strerror}") from None
        try:
            self._use(self._open())
        except BaseException:
            self._lock.release()
            raise

    @property
    def import_path(self) -> str:
        """Where the predecessor's file waits for its import, if there was one under our name."""
        return self.path + ".importing"

    def is_wanted(self) -> bool:
        """Tell whether a successor asks for the file."""
        return self._lock.is_wanted()

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._connection.close()
        self._lock.release()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for queries. Raises LedgerFault."""
        try:
            yield self._connection
        except sqlite3.Error as exc:
            raise self._fault(exc) from None

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction, committed at the end. Raises LedgerFault, or InvalidPath for bad text."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            self._check_place()
            connection.execute("COMMIT")
        except (UnicodeEncodeError, PydanticSerializationError):
            _roll_back(connection)
            raise InvalidPath("the path or text is not valid UTF-8 and cannot be stored") from None
        except sqlite3.Error as exc:
            _roll_back(connection)
            raise self._fault(exc) from None
        except BaseException:
            _roll_back(connection)
            self._renew_log()
            raise
        self._forget("write")

    def look(self) -> None:
        """Find out for ``issues`` whether the files are in their place, also when nobody writes."""
        with contextlib.suppress(LedgerFault):
            self._check_place(thoroughly=True)
        self._renew_log()

    def is_failing(self) -> bool:
        """Tell whether nothing could be written when it was last tried or looked at."""
        return bool(self.issues.keys() & {"write", "place"})

    def _open(self) -> sqlite3.Connection:
        try:
            self._make_way_for_import()
            return self._open_or_start_afresh()
        except OSError as exc:
            raise LedgerFault(f"cannot open the ledger '{self.path}': {exc.strerror}") from None
        except sqlite3.Error as exc:
            raise LedgerFault(f"cannot open the ledger '{self.path}': {exc}") from None

    def _open_or_start_afresh(self) -> sqlite3.Connection:
        try:
            return open_database(self.path)
        except sqlite3.Error as exc:
            if not is_unreadable(exc):
                raise
            return self._start_afresh()

    def _start_afresh(self) -> sqlite3.Connection:
        aside = free_name(f"{self.path}.corrupt")
        for part in PARTS:
            if os.path.exists(self.path + part):
                os.replace(self.path + part, aside + part)
        self.issues["corrupt"] = f"the ledger could not be read; it was set aside as '{aside}' and a fresh one began"
        log.error("%s", self.issues["corrupt"])
        return open_database(self.path)

    def _fault(self, exc: sqlite3.Error) -> LedgerFault:
        """Say what is wrong, for /healthz and the caller; a damaged file is set aside and a fresh one begins."""
        if is_unreadable(exc):
            self._check_place(thoroughly=True)
            self._connection.close()
            self._use(self._start_afresh())
            return LedgerFault(self.issues["corrupt"])
        message = f"the ledger '{self.path}' cannot be written: {exc}"
        self._note("write", message)
        return LedgerFault(message)

    def _note(self, kind: str, message: str) -> None:
        """Keep why nothing can be written, and log it once per outage."""
        if kind not in self.issues:
            log.error("%s", message)
        self.issues[kind] = message

    def _forget(self, kind: str) -> None:
        if self.issues.pop(kind, None):
            log.warning("the ledger '%s' can be written again", self.path)

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # SQLite keeps its write-ahead log, whatever its size, until it closes the file.
        self._opened = {path: found for path in (self.path, self.path + LOG) if (found := _identity(path))}

    def _is_in_place(self, path: str) -> bool:
        return path not in self._opened or _identity(path) == self._opened[path]

    def _has_log(self, thoroughly: bool) -> bool:
        """Tell whether the write-ahead log is there, and ``thoroughly`` whether it is ours.

        Linux (6.13 on) keeps the times of a file exactly for whoever asks: a stat of what is written all the time costs commits a tenth.
        """
        log = self.path + LOG
        return self._is_in_place(log) if thoroughly or log not in self._opened else os.access(log, os.F_OK)

    def _check_place(self, thoroughly: bool = False) -> None:
        """Raise LedgerFault if another ledger took over, or if a file is gone or another one: what is written then is soon lost."""
        try:
            if not self._is_in_place(self.path):
                raise _removed(self.path)
            if not self._has_log(thoroughly or "place" in self.issues):
                raise _removed(self.path + LOG)
            self._lock.check()
        except LedgerFault as exc:
            self._note("place", exc.message)
            raise
        self._forget("place")

    def _renew_log(self) -> None:
        """Open the database anew if only its write-ahead log is lost: what that holds is still in our hands and is folded in first."""
        if self._is_in_place(self.path + LOG) or not self._is_in_place(self.path):
            return
        with contextlib.suppress(sqlite3.Error, OSError, LedgerFault):
            self._lock.check()
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if not busy:
                self._connection.close()
                self._use(open_database(self.path))

    def _make_way_for_import(self) -> None:
        """Move the predecessor's JSON, found under our name, to where it waits for its import, also after a crash."""
        with contextlib.suppress(FileNotFoundError):
            if is_json(self.path):
                os.replace(self.path, self.import_path)


def is_json(path: str) -> bool:
    """Tell whether a file is the predecessor's. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def is_in_use(path: str) -> bool:
    """Tell whether somebody has the ledger open now; also where that cannot be told."""
    try:
        return is_held(path + LOCK)
    except OSError:
        return True


def free_name(prefix: str) -> str:
    """Return a name that does not exist yet: the prefix, the time, and a number where needed."""
    stamped = f"{prefix}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    return next(name for name in itertools.chain([stamped], (f"{stamped}-{n}" for n in itertools.count(1))) if not os.path.exists(name))


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file has this name now; None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _removed(path: str) -> LedgerFault:
    return LedgerFault(f"the ledger's file '{path}' was removed or replaced while the service ran; put it back, or restart the service")


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
