"""The analyzer: turns a log path into a durable answer, once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from attr_actors import tracing
from attr_actors.actors.followed_logs import FollowedLogs
from attr_actors.actors.isolation import analyze_isolated
from attr_actors.actors.own_health import own_health
from attr_actors.actors.second_opinion import open_second_opinion
from attr_actors.actors.single_flight import SingleFlight
from attr_actors.core import predecessor
from attr_actors.core.engine import Engine
from attr_actors.core.following import Following
from attr_actors.core.paths import LogPath, admit, check_not_empty, stat_log
from attr_actors.core.validity import in_grace, is_valid
from attr_actors.errors import AnalysisFailed, AttrError, NotFound, Overloaded, RequestError
from attr_actors.file_threads import FileThreads
from attr_actors.handles import LedgerHandle, ModelGateHandle
from attr_actors.models import Analysis, AnalyzeRequest, Flight, Health, Peek, Recording, Snapshot, Stats
from attr_actors.settings import Settings

T = TypeVar("T")

LOOK_SLOTS = 4
"""Stats at a time and mount: they must not wait for scans."""

SURVIVED_MAX = 10_000
"""Files remembered that changed under their reader; forgetting them costs at most an isolated read."""

ATTEMPTS_MAX = 3
"""One try and two retries on a fresh process: a log that kills its reader must not become a crash loop."""


class Analyzer:
    """Exists because a path must be analysed once however many ask (single flight), and scans need their own processes.

    All state is a cache of the ledger's; a killed analyzer loses only work in progress, which its callers ask for again.
    """

    def __init__(self, settings: Settings, ledger: LedgerHandle, name: str = "analyzer-0", gate: ModelGateHandle | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._name = name
        self._engine = Engine(settings.engine)
        self._flights: SingleFlight[Analysis] = SingleFlight(settings.flights_max)
        self._opinion = open_second_opinion(settings, gate, ledger, self._engine.rows) if gate else None
        self._opinions: SingleFlight[Analysis] = SingleFlight(settings.flights_max)
        self._scans = FileThreads("scan", settings.scan_threads, settings.flights_max)
        self._looks = FileThreads("look", LOOK_SLOTS, settings.flights_max)
        self._followed = FollowedLogs(self._read_on, settings.followed_max)
        self._survived: Counter[Snapshot] = Counter()
        """Attempts that ended because the file went away or changed into something else: they are not held against it."""
        self._counts: Counter[str] = Counter()
        self._started_at = time.time()

    async def analyze(self, request: AnalyzeRequest) -> Analysis:
        """Return the answer for a path, from the ledger if it still holds, else from one shared analysis."""
        joined = request.path in self._flights
        if joined and not request.background:
            self._scans.hurry(request.path, request.path)
        if not joined and self._flights.full:  # What is known already needs no place in the queue.
            stored = await self._ledger.lookup(request.path)
            if stored and await self._still_holds(stored):
                self._counts["cache.hits"] += 1
                return stored
        analysis = await self._flights.join(request.path, lambda: self._answer(request))
        return analysis.model_copy(update={"joined": True}) if joined else analysis

    async def start(self, request: AnalyzeRequest) -> None:
        """Start the analysis of a path and return at once."""
        self._flights.start(request.path, lambda: self._answer(request))

    async def follow(self, path: str) -> None:
        """Read on in a log that is being written and return at once. Records nothing; lost with the process, which costs only time."""
        if path not in self._flights:
            self._followed.read_on(path)

    async def peek(self, path: str) -> Peek:
        """Return the state of a path without starting work."""
        stored = await self._ledger.lookup(path)
        if path in self._flights:
            return Peek(status="in_flight", candidate=stored.cycles[-1] if stored else None)
        if stored and await self._still_holds(stored):
            return Peek(status="completed", analysis=stored)
        return Peek(status="pending", candidate=None)

    async def flights(self) -> tuple[Flight, ...]:
        """Return the analyses under way, oldest first."""
        return tuple(Flight(path=p, started_at=s, elapsed_s=e, waiters=w) for p, s, e, w in self._flights.flights())

    async def stats(self) -> Stats:
        """Return the counters since this process started."""
        counts = dict(self._counts)
        counts["flights.oldest_s"] = max((elapsed for _, _, elapsed, _ in self._flights.flights()), default=0.0)  # type: ignore[assignment]
        counts |= {"flights.now": len(self._flights), "flights.started": self._flights.started, "flights.joined": self._flights.joined}
        if self._opinion:
            counts |= self._opinion.counts | {"llm.flights": len(self._opinions)}
        return Stats(counts=counts)

    async def health(self) -> Health:
        """Return who this process is."""
        issues = [f"the file system at '{point}' does not answer" for point in self._scans.hung_mounts()]
        return own_health(self._name, self._settings, self._started_at, issues)

    async def close(self) -> None:
        """Leave the model alone: the rules' answers are durable, and the next process asks again for what is missing."""
        await self._opinions.cancel()
        if self._opinion:
            await self._opinion.close()

    async def _answer(self, request: AnalyzeRequest) -> Analysis:
        stored = await self._ledger.lookup(request.path)
        if stored and await self._still_holds(stored):
            self._counts["cache.hits"] += 1
            return self._with_opinion_started(stored, request)
        self._counts["cache.misses"] += 1
        analysis = await self._scan(request)
        if self._opinion and self._opinion.wanted(analysis):
            analysis = self._opinion.announce(analysis)
        await self._ledger.record((Recording(analysis=analysis, requester=request.requester),))
        if not self._start_opinion(analysis, request) or not self._settings.llm_wait_s:
            return analysis
        try:
            async with asyncio.timeout(self._settings.llm_wait_s):
                return await self._opinions.join(request.path, lambda: self._consider(analysis, request))
        except (TimeoutError, AttrError):
            return analysis

    def _with_opinion_started(self, stored: Analysis, request: AnalyzeRequest) -> Analysis:
        """Return a stored answer; where the model has yet to be asked, as after a batch without one, say so and ask it.

        An imported answer is left as it is: it has no lines to show.
        """
        if self._opinion is None or stored.engine != self._engine.fingerprint or not self._opinion.wanted(stored):
            return stored
        self._start_opinion(stored, request)
        return stored if stored.degraded else self._opinion.announce(stored)

    def _start_opinion(self, analysis: Analysis, request: AnalyzeRequest) -> bool:
        """Let the model look at an answer that is already durable, so that nobody waits; tell whether it does."""
        if self._opinion is None or not self._opinion.wanted(analysis):
            return False
        try:
            self._opinions.start(request.path, lambda: self._consider(analysis, request))
        except Overloaded:  # The answer stays degraded; the next request for it tries again.
            self._counts["llm.overloaded"] += 1
            return False
        return True

    async def _consider(self, analysis: Analysis, request: AnalyzeRequest) -> Analysis:
        assert self._opinion is not None
        log = await self._look(request.path, lambda: admit(request.path, self._settings.allowed_root))
        found = await self._opinion.consider(analysis, log, request.requester)
        stored = await self._ledger.lookup(request.path)
        if stored is None or stored.snapshot != analysis.snapshot or stored.engine != analysis.engine:
            return found  # The log was analysed anew meanwhile: this opinion is about what it was.
        if found.cycles != stored.cycles:
            await self._ledger.record((Recording(analysis=found, requester=request.requester),))
        return found

    async def _still_holds(self, stored: Analysis) -> bool:
        """Judge a stored answer by the ledger's rule: inside the grace period without a stat, afterwards by size and mtime."""
        settings, now = self._settings, time.time()
        if stored.engine not in (self._engine.fingerprint, predecessor.ENGINE):
            return False
        if in_grace(stored, now, settings.cache_grace_period_seconds):
            return True
        try:
            seen = await self._look(stored.snapshot.path, lambda: stat_log(admit(stored.snapshot.path, settings.allowed_root)))
        except NotFound:
            return False
        return is_valid(stored, now, settings.cache_grace_period_seconds, settings.entry_age_max_s, seen.st_size, seen.st_mtime_ns)

    async def _scan(self, request: AnalyzeRequest) -> Analysis:
        path, timeout_s = request.path, self._settings.compute_timeout
        log = await self._look(path, lambda: admit(path, self._settings.allowed_root))
        snapshot = await self._look(path, lambda: _readable(log))  # What cannot be read at all is no attempt.
        attempts = await self._ledger.begin_attempt(snapshot, self._engine.fingerprint) - self._survived[snapshot]
        if attempts > ATTEMPTS_MAX:
            raise AnalysisFailed(f"'{path}' ended its reader {ATTEMPTS_MAX} times; it is tried again when the file changes")
        started = time.monotonic()
        try:
            with tracing.span("scan", attributes={"attr.log_path": path, "attr.log_bytes": snapshot.size, "attr.attempt": attempts}):
                followed = await self._followed.take(path)
                self._counts["follow.used"] += followed is not None
                if attempts == 1:
                    analysis = await self._scans.run(
                        path, lambda: self._engine.analyze(log, followed=followed), timeout_s, request.background, ticket=path
                    )
                else:  # The process of the last attempt died, perhaps of this log: read it where nothing else can be hurt.
                    analysis = await analyze_isolated(log, self._settings.engine, self._settings.compute_timeout)
        except RequestError:
            if len(self._survived) >= SURVIVED_MAX:
                self._survived.clear()
            self._survived[snapshot] += 1
            raise
        finally:
            self._counts["compute.seconds"] += time.monotonic() - started  # type: ignore[assignment]
        self._counts["compute.completed"] += 1
        self._counts["compute.bytes"] += analysis.log_bytes
        self._counts.update(f"verdicts.{cycle.category}.{cycle.action}" for cycle in analysis.cycles)
        return analysis

    async def _read_on(self, path: str, followed: Following | None) -> Following:
        log = await self._look(path, lambda: admit(path, self._settings.allowed_root))
        self._counts["follow.reads"] += 1
        return await self._scans.run(path, lambda: self._engine.follow(log, followed), self._settings.compute_timeout, background=True)

    async def _look(self, path: str, work: Callable[[], T]) -> T:
        return await self._looks.run(path, work, self._settings.file_timeout_s)


def _readable(log: LogPath) -> Snapshot:
    found = check_not_empty(log)
    return Snapshot(path=log.path, size=found.st_size, mtime_ns=found.st_mtime_ns)
