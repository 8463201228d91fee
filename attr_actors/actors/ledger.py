"""The ledger actor: the one durable store. Every other actor may die at any instant and rebuild itself from it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable

from attr_actors.actors.own_health import own_health
from attr_actors.adapters.ledger_db import LedgerDb
from attr_actors.adapters.ledger_file import is_in_use
from attr_actors.adapters.ledger_upkeep import finish_import
from attr_actors.errors import LedgerFault, LedgerTakenOver
from attr_actors.models import Analysis, Delivery, Health, Outcome, Recording, Snapshot, Stats, StoredReply
from attr_actors.settings import Settings

LOOK_EVERY_S = 0.2
"""How often a ledger that is asked something looks whether a successor wants its file: a stat."""
AWAY_S = 15.0
"""A ledger that handed its file over takes it back when nobody has held it for so long: ten times what a killed successor is away."""

logger = logging.getLogger("attr_actors.ledger")


class Ledger:
    """The durable store of answers, attempts, jobs and deliveries. It calls nobody.

    Exists because writes must be serialised and there must be one writer in the cluster: it is synchronous, one call
    at a time, so its mailbox is the lock, and a reply means that the transaction is on disk. Recovery is opening the file.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """Open the ledger. If it cannot be had, every call says why with LedgerFault, and tries again.

        A constructor that raises would end the actor for good, and the reason (a predecessor on a lost node that still
        holds the file, a full disk) may pass.
        """
        self._settings = settings
        self._clock = clock
        self._started_at = clock()
        self._counts: Counter[str] = Counter()
        self._sinks = settings.sink_names
        self._opened: LedgerDb | None = None
        self._take_over = settings.ledger_take_over
        self._looked_at = -math.inf
        self._free_since: float | None = None
        """After a hand-over: since when nobody has been seen to hold the file."""
        with contextlib.suppress(LedgerFault):
            self._open(settings.ledger_lock_wait_s)

    def lookup(self, path: str) -> Analysis | None:
        """Return the newest stored analysis of a path; the caller judges validity."""
        found = self._db.lookup(path)
        self._counts["persistence.lookups"] += 1
        self._counts["persistence.hits"] += found is not None
        return found

    def lookup_many(self, paths: tuple[str, ...]) -> tuple[Analysis | None, ...]:
        """Return the newest stored analysis of each path, in the order of the paths; the caller bounds their number."""
        found = self._db.lookup_many(paths)
        self._counts["persistence.lookups"] += len(paths)
        self._counts["persistence.hits"] += sum(analysis is not None for analysis in found)
        return found

    def record(self, recordings: tuple[Recording, ...]) -> None:
        """Store analyses and the deliveries they cause in one transaction."""
        settings, now = self._settings, self._clock()
        # Eviction comes first: on a full disk it makes the room.
        swept = self._db.sweep(now, settings.entry_age_max_s, settings.cache_grace_period_seconds, settings.outbox_keep_max_s)
        self._counts.update(swept)
        self._db.record(recordings, self._sinks, now)
        self._counts["persistence.recorded"] += len(recordings)

    def begin_attempt(self, snapshot: Snapshot, engine: str) -> int:
        """Count an analysis before it starts; return how many started, this one included, since the last was recorded."""
        return self._db.begin_attempt(snapshot, engine, self._clock())

    def load_jobs(self, after_path: str, limit: int) -> tuple[str, ...]:
        """Return saved jobs in path order after ``after_path``."""
        return self._db.load_jobs(after_path, limit)

    def save_jobs(self, jobs: tuple[tuple[str, str], ...], forget: tuple[str, ...]) -> None:
        """Store (path, JSON text) pairs and drop forgotten paths."""
        self._db.save_jobs(jobs, forget)

    def lease(self, sink: str, limit: int, lease_s: float) -> tuple[Delivery, ...]:
        """Lease due deliveries of a sink; an unsettled one is due again after ``lease_s``."""
        return self._db.lease(sink, limit, lease_s, self._clock())

    def settle(self, outcomes: tuple[Outcome, ...]) -> None:
        """Remove what is done, postpone what is to be tried again, park the rest."""
        self._db.settle(outcomes, self._clock())
        self._counts.update(f"outbox.settled_{outcome.state}" for outcome in outcomes)

    def find_reply(self, key: str) -> StoredReply | None:
        """Return the model's reply to exactly this question, if it was asked before."""
        return self._db.find_reply(key)

    def save_reply(self, reply: StoredReply) -> None:
        """Keep a model's reply."""
        self._db.save_reply(reply)

    def tokens_since(self, at: float) -> int:
        """Return the tokens of the replies stored since an instant."""
        return self._db.tokens_since(at)

    def stats(self) -> Stats:
        """Return rows, outbox depth and age per sink, and what this process did."""
        counts = self._db.counts(self._sinks, self._clock())
        return Stats(counts={**counts, **{name: float(number) for name, number in self._counts.items()}})

    def health(self) -> Health:
        """Return version, settings fingerprint, and what an operator must mend; failing while nothing can be written.

        Raises LedgerFault while there is no ledger.
        """
        file = self._db.file
        file.look()
        return own_health("ledger", self._settings, self._started_at, file.issues.values(), failing=file.is_failing())

    def close(self) -> None:
        """Close the file; a ledger that is not closed loses nothing."""
        if self._opened is not None:
            self._opened.close()

    @property
    def _db(self) -> LedgerDb:
        now = self._clock()
        if self._opened and not 0 <= now - self._looked_at < LOOK_EVERY_S:
            self._looked_at = now
            if self._opened.file.is_wanted():
                self._hand_over(now)
        if self._free_since is not None:
            self._wait_for_silence(now, self._free_since)
        return self._opened or self._open(0.0)

    def _hand_over(self, now: float) -> None:
        logger.warning("the ledger '%s' is handed over to another service, which asked for it", self._settings.ledger_file)
        self._take_over, self._free_since = False, now  # It never asks for the file back.
        self.close()
        self._opened = None

    def _wait_for_silence(self, now: float, free_since: float) -> None:
        """Return when nobody has held the file for so long that the successor must be gone. Raises LedgerTakenOver."""
        if is_in_use(self._settings.ledger_file):
            free_since = now
        self._free_since = free_since
        if now - free_since < AWAY_S:
            raise LedgerTakenOver("another service has taken the ledger over; this one answers what it has at hand until it ends")
        self._free_since = None

    def _open(self, lock_wait_s: float) -> LedgerDb:
        settings = self._settings
        db = LedgerDb(settings.ledger_file, lock_wait_s, self._take_over)
        try:
            imported = finish_import(db, settings.allowed_root, self._clock(), settings.entry_age_max_s)
        except LedgerFault:
            db.close()
            raise
        self._counts.update({f"persistence.{name}": number for name, number in imported.items()})
        self._opened = db
        return db
