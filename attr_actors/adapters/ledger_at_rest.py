"""The ledger's file while no service runs: looked at, not changed.

Hold in mind: what is wrong is told, with what the service would do about it, and left for the service or an operator to do.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from attr_actors.adapters.ledger_file import LOCK, LedgerFile, is_json
from attr_actors.adapters.ledger_lock import hold_still
from attr_actors.adapters.ledger_schema import is_unreadable, open_at_rest
from attr_actors.errors import LedgerFault


class LedgerAtRest(LedgerFile):
    """The file of a stopped service, for queries: a transaction in ``writing`` fails."""

    def __init__(self, path: str) -> None:
        """Open the file. Raises LedgerInUse while a service runs, LedgerFault if it cannot be read."""
        self.path = path
        self.issues = {}
        self._held = contextlib.ExitStack()
        try:
            fd = hold_still(path + LOCK)
            if fd is not None:
                self._held.callback(os.close, fd)
            if is_json(path):
                raise LedgerFault(f"'{path}' is a JSON ledger; the service takes it over at its next start")
            self._connection = self._held.enter_context(contextlib.closing(open_at_rest(path)))
        except BaseException as exc:
            self._held.close()
            if isinstance(exc, FileNotFoundError):
                raise LedgerFault(f"there is no ledger '{path}'; the service begins one at its next start") from None
            if isinstance(exc, OSError):
                raise LedgerFault(f"cannot open the ledger '{path}': {exc.strerror}") from None
            if isinstance(exc, sqlite3.Error):
                raise self._fault(exc) from None
            raise

    def close(self) -> None:
        """Close the file, and let writers come."""
        self._held.close()

    def _fault(self, exc: sqlite3.Error) -> LedgerFault:
        told = f"the ledger '{self.path}' cannot be read: {exc}"
        if is_unreadable(exc):
            told += "\nNothing was changed. When the service meets the damage, mostly at its start, it sets the file aside and begins anew."
        return LedgerFault(told)
