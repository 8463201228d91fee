"""What each actor can be asked, seen from its callers. The picture in words:

    serve_app -> tracker, analyzers, ledger      tracker -> ledger, analyzers
    serve_app -> limiter, meter
    analyzers -> ledger, model gate              notifiers -> ledger (serve_app asks them for stats and health)
    model gate -> ledger (serve_app asks it for stats and health)

A handle is either an in-process twin (tests, ``analyze`` without Ray) or a wrapper over a Ray actor handle made by
``actors/cluster.py``; both look like these protocols. Every method is idempotent, has a timeout at the caller, and
raises errors of ``attr_actors.errors`` only (``Unavailable`` while the actor restarts).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from attr_actors.errors import AttrError
from attr_actors.models import (
    Analysis,
    AnalyzeRequest,
    Delivery,
    Figures,
    Flight,
    Health,
    Holding,
    JobMode,
    JobsPage,
    JobView,
    Lease,
    ModelOutcome,
    Outcome,
    Peek,
    Permit,
    Recording,
    Snapshot,
    Stats,
    StoredReply,
    Submission,
)

SubmitAnswer = JobView | AttrError | None
"""What became of one submission among many; None: it would hold up the others, so submit it alone."""


class LedgerHandle(Protocol):
    """The durable store. It calls nobody; a reply means that the transaction is on disk."""

    async def lookup(self, path: str) -> Analysis | None:
        """Return the newest stored analysis of a path, whatever its snapshot or engine; the caller judges validity."""

    async def lookup_many(self, paths: tuple[str, ...]) -> tuple[Analysis | None, ...]:
        """Return the newest stored analysis of each path, in their order; the caller asks for some hundreds at most."""

    async def record(self, recordings: tuple[Recording, ...]) -> None:
        """Store analyses and their outbox rows in one transaction; the same entry twice is stored once."""

    async def begin_attempt(self, snapshot: Snapshot, engine: str) -> int:
        """Count an analysis before it starts; return how many started for this snapshot without being recorded."""

    async def load_jobs(self, after_path: str, limit: int) -> tuple[str, ...]:
        """Return saved jobs (JSON texts made by the tracker) in path order after ``after_path``."""

    async def save_jobs(self, jobs: tuple[tuple[str, str], ...], forget: tuple[str, ...]) -> None:
        """Store (path, JSON text) pairs and drop forgotten paths, in one transaction."""

    async def lease(self, sink: str, limit: int, lease_s: float) -> tuple[Delivery, ...]:
        """Lease due deliveries of a sink; an unacknowledged one is due again after ``lease_s``."""

    async def settle(self, outcomes: tuple[Outcome, ...]) -> None:
        """Remove what is done (keeping receipts), postpone what is to be tried again, park the rest; in one transaction."""

    async def find_reply(self, key: str) -> StoredReply | None:
        """Return the model's reply to exactly this question, if it was asked before."""

    async def save_reply(self, reply: StoredReply) -> None:
        """Keep a model's reply; the same key again replaces it."""

    async def tokens_since(self, at: float) -> int:
        """Return the tokens of the replies stored since an instant."""

    async def stats(self) -> Stats:
        """Return counts of entries, jobs and outbox rows per sink and state, and the age of the oldest due row."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues."""


class ModelGateHandle(Protocol):
    """The one owner of what the model's endpoint stands: calls under way, the circuit breaker, the day's tokens."""

    async def acquire(self, ticket: str, wait_s: float) -> Permit:
        """Return a permit, waiting up to ``wait_s`` for a free slot; the same ticket gets the same permit again."""

    async def release(self, ticket: str, outcome: ModelOutcome) -> None:
        """Give a permit back with what became of it."""

    async def stats(self) -> Stats:
        """Return the counters of the model: answers, tokens, cost, latency, the breaker's state."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues; failing when half of the recent opinions failed."""


class AnalyzerHandle(Protocol):
    """One of N analyzers; a path is always asked of number ``crc32(path) % N``."""

    async def analyze(self, request: AnalyzeRequest) -> Analysis:
        """Return the answer, joining the flight of the same path. A caller that goes away does not stop it."""

    async def start(self, request: AnalyzeRequest) -> None:
        """Start (or join) the flight and return at once."""

    async def follow(self, path: str) -> None:
        """Read on in a log that is being written, so that its analysis costs only the tail; returns at once, records nothing."""

    async def peek(self, path: str) -> Peek:
        """Return what is known without starting work."""

    async def flights(self) -> tuple[Flight, ...]:
        """Return the analyses under way."""

    async def stats(self) -> Stats:
        """Return counters of flights, scans and model calls."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues."""


def pick(analyzers: Sequence[AnalyzerHandle], path: str) -> AnalyzerHandle:
    """Return the analyzer of a path. The address is a checksum, because ``hash()`` is salted per process."""
    return analyzers[zlib.crc32(path.encode(errors="surrogateescape")) % len(analyzers)]


class TrackerHandle(Protocol):
    """The job tracker: every job's mode, files and life."""

    async def submit(self, submission: Submission) -> JobView:
        """Register or refresh a job; the reply is durable. Starts the analysis for ``terminal``.

        Raises JobLimitReached, InvalidParameter (conflicting cycle_id), and what reading the log raises.
        """

    async def submit_many(self, submissions: tuple[Submission, ...]) -> tuple[SubmitAnswer, ...]:
        """Register or refresh many jobs with one durable write; each has an answer of its own."""

    async def finish(self, path: str) -> JobView | None:
        """Return the job of a path with its files freshly listed, marking a splitlog job terminated; None if untracked."""

    async def refresh(self, path: str) -> JobView | None:
        """Return the job of a path with its files freshly listed, and let it live on; None if untracked."""

    async def find(self, path: str) -> JobView | None:
        """Return the job of a path without changing anything; None if untracked."""

    async def jobs(self, mode: JobMode | None, limit: int, offset: int) -> JobsPage:
        """Return one page of jobs."""

    async def stats(self) -> Stats:
        """Return counters of submissions, modes, deferrals, permission errors and cleanup."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues."""


class LimiterHandle(Protocol):
    """The rate limits over all replicas."""

    async def lease(self, rate: str, client: str, wanted: int, incarnation: str) -> Lease:
        """Grant a replica a batch of requests of one client; none to a replica that counts with another incarnation."""

    async def incarnation(self) -> str:
        """Return the name of this process; another one than before has forgotten what was granted."""

    async def restore(self, holdings: tuple[Holding, ...]) -> str:
        """Take in what a replica was granted by an earlier process; return this one's name."""

    async def stats(self) -> Stats:
        """Return counters of leases."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues."""


class MeterHandle(Protocol):
    """The figures of all replicas."""

    async def report(self, figures: Figures) -> None:
        """Take in the newest figures of one replica."""

    async def stats(self) -> Stats:
        """Return the sums over the replicas."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues."""


class Reporting(Protocol):
    """What every actor answers."""

    async def stats(self) -> Stats:
        """Return counters and gauges by dotted name."""

    async def health(self) -> Health:
        """Return version, settings fingerprint and issues."""


@dataclass(frozen=True)
class Actors:
    """The handles of all actors, wherever they run. ``named`` holds the same handles by name, in start order."""

    ledger: LedgerHandle
    tracker: TrackerHandle
    analyzers: tuple[AnalyzerHandle, ...]
    limiter: LimiterHandle
    meter: MeterHandle
    named: Mapping[str, Reporting]
