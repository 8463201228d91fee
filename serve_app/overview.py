"""How the service is, summed over its actors: GET /stats and GET /healthz."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable

from attr_actors.errors import AttrError
from attr_actors.handles import Actors, Reporting
from attr_actors.models import Health, Stats
from serve_app.bodies import HealthReply
from serve_app.figures import FigureBook

HEALTH_AGE_MAX_S = 1.0
"""Health is asked of the actors at most this often per replica: load balancers probe more often than it changes."""

HEALTH_KEPT_S = 3.0
"""So old may be what a plain probe is told; while probes come, it is renewed in the background every second."""

PROBED_S = 15.0
"""A replica that nobody probed for so long stops asking."""

HEALTH_WAIT_S = 2.0
"""Probes give up soon: a late answer of an actor is told as such."""

STATUSES = ("ok", "degraded", "fail")

VITAL = frozenset({"ledger", "tracker"})
"""Without these no request but a cached one can be answered."""


class Overview:
    """Asks all actors; one per replica."""

    def __init__(self, actors: Actors, figures: FigureBook) -> None:
        self._actors = actors
        self._figures = figures
        self._health: tuple[float, HealthReply, bytes] | None = None
        self._answers: list[Health] = []
        self._asking: asyncio.Task[HealthReply] | None = None
        self._came: dict[str, Health] = {}
        """What the actors answered so far to the newest question."""
        self._late: frozenset[str] = frozenset()
        self._probed_at = -PROBED_S
        self._own: list[Callable[[], list[str]]] = []

    def watch(self, issues: Callable[[], list[str]]) -> None:
        """Add what ``issues()`` returns, which is this replica's own, to the state of the service."""
        self._own.append(issues)

    async def counters(self) -> dict[str, float]:
        """Return the summed counters of all actors and replicas by dotted name."""
        await self._figures.report()
        total: Counter[str] = Counter()
        for stats in await asyncio.gather(*(_stats_of(actor) for actor in self._actors.named.values())):
            total.update(stats.counts)
        health = await asyncio.shield(self._ask())
        return dict(total) | self._processes(self._answers) | {"health.status": STATUSES.index(health.status)}

    def is_ready(self) -> bool:
        """Tell whether, at the last ``health()``, the actors answered without which no request but a cached one can be answered."""
        return bool(self._answers) and not VITAL & self._late and all(answer.pid for answer in self._answers if answer.name in VITAL)

    async def health(self) -> HealthReply:
        """Return the state of the service and its actors, at most a second old."""
        self._late = frozenset()
        if self._health is None or time.monotonic() - self._health[0] > HEALTH_AGE_MAX_S:
            try:
                async with asyncio.timeout(HEALTH_WAIT_S):
                    return await asyncio.shield(self._ask())
            except TimeoutError:
                self._late = frozenset(self._actors.named.keys() - self._came.keys())
                return self._sum_up(f"{name}: takes longer than {HEALTH_WAIT_S:g} s to tell how it is" for name in sorted(self._late))
        return self._health[1]

    def recent(self) -> bytes | None:
        """Return the body of GET /healthz if it is young enough, without asking anybody."""
        self._probed_at = time.monotonic()
        if self._health is None or self._probed_at - self._health[0] > HEALTH_KEPT_S:
            return None
        return self._health[2]

    def refresh(self) -> None:
        """Ask the actors in the background, if probes come."""
        if time.monotonic() - self._probed_at < PROBED_S:
            self._ask().add_done_callback(lambda asked: asked.cancelled() or asked.exception())  # Whoever waits is told.

    def _ask(self) -> asyncio.Task[HealthReply]:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_health())
        return self._asking

    def _processes(self, answers: list[Health]) -> dict[str, float]:
        """Return process id and uptime per actor, and this replica's."""
        shown = {"actors.replica.pid": float(os.getpid())}
        for answer in answers:
            shown[f"actors.{answer.name}.pid"] = answer.pid
            shown[f"actors.{answer.name}.uptime_s"] = time.time() - answer.started_at if answer.pid else 0.0
        return shown

    async def _ask_health(self) -> HealthReply:
        self._came = {}
        try:
            answers = await asyncio.gather(*(self._health_of(name, actor) for name, actor in self._actors.named.items()))
        finally:
            self._asking = None
        status = self._sum_up()
        self._answers, self._health = answers, (time.monotonic(), status, status.model_dump_json().encode())
        return status

    def _sum_up(self, late: Iterable[str] = ()) -> HealthReply:
        """Return what the answers so far amount to, with the issues of those that owe one."""
        answers = [self._came[name] for name in self._actors.named if name in self._came]
        issues = [*late, *(f"{a.name}: {issue}" for a in answers for issue in a.issues), *(issue for own in self._own for issue in own())]
        return HealthReply(status="fail" if any(a.failing for a in answers) else "degraded" if issues else "ok", issues=issues)

    async def _health_of(self, name: str, actor: Reporting) -> Health:
        try:
            answer = await actor.health()
        except AttrError as exc:  # It is away, or cannot do its work: a ledger without its file.
            answer = Health(name=name, version="", fingerprint="", pid=0, started_at=0, issues=(exc.message,), failing=name in VITAL)
        self._came[name] = answer
        return answer


async def _stats_of(actor: Reporting) -> Stats:
    try:
        return await actor.stats()
    except AttrError:
        return Stats()  # GET /healthz says that it is away.
