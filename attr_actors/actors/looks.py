"""Looks at files from an event loop: in threads, numbered by when they began, and never waited for without a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import NamedTuple

from attr_actors.core.job import Job
from attr_actors.core.looking import Bounds, Known, Look, take_look
from attr_actors.core.paths import LogPath
from attr_actors.core.splitlog import LogsDirs
from attr_actors.errors import AttrError, Unavailable
from attr_actors.file_threads import FileThreads
from attr_actors.settings import Settings

WAITING_MAX = 10_000
"""Clients that may wait for one file system; as many as may call the tracker at once."""


class Wanted(NamedTuple):
    """A log to look at, and what is known of it."""

    path: str
    job_id: str | None
    known: Known

    @classmethod
    def of(cls, job: Job) -> Wanted:
        """Want another look at a job's log."""
        return cls(job.path, job.job_id, job.known)


class Looks:
    """Takes looks. Clients and the clock have threads of their own, so that a round holds up nobody who waits."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.allowed_root
        self._timeout_s = settings.file_timeout_s
        self._bounds = Bounds(settings.marker_head_bytes, settings.logs_dir_files_max)
        self.lanes = max(1, settings.tracker_threads // 2)
        """Batches of a round that are under way at a time."""
        self._clients = FileThreads("tracker-look", settings.tracker_threads, WAITING_MAX)
        self._clock = ThreadPoolExecutor(self.lanes, "tracker-round")
        self._late: list[Future[list[tuple[str, Look | Exception]]]] = []
        """Batches that were given up and may still be in their threads."""
        self._numbers = count(1)

    async def one(self, wanted: Wanted, background: bool = False) -> Look:
        """Look at a log for a client, or behind all clients. Raises what take_look() raises, and Unavailable."""
        number = next(self._numbers)
        return await self._clients.run(wanted.path, lambda: self._take(wanted, number), self._timeout_s, background)

    async def together(self, wanted: Sequence[Wanted], patience_s: float) -> list[Look | AttrError | None]:
        """Look at logs for clients who came together; None is for one that must be looked at alone."""
        return await self._clients.run_together([(w.path, partial(self._take_now, w)) for w in wanted], patience_s)

    async def many(self, wanted: list[Wanted], listed: LogsDirs) -> list[tuple[str, Look | Exception]]:
        """Look at a batch for the clock; whatever went wrong with one log is its answer."""
        batch = self._clock.submit(self._take_all, wanted, next(self._numbers), listed)
        try:
            async with asyncio.timeout(self._timeout_s * 2):  # A batch is many logs, and nobody waits for it.
                return await asyncio.wrap_future(batch)
        except TimeoutError:
            self._late = [*(late for late in self._late if not late.done()), batch]
            return [(w.path, self._too_slow()) for w in wanted]

    def issues(self) -> list[str]:
        """Return what hangs, for the operator: mounts that answer no client, and threads of the clock."""
        hung = [f"the file system at '{point}' does not answer" for point in self._clients.hung_mounts()]
        stuck = sum(not late.done() for late in self._late)
        return hung + ([f"{stuck} of {self.lanes} threads of the rounds are stuck in a file system"] if stuck else [])

    def close(self) -> None:
        """Let the threads end."""
        self._clients.close()
        self._clock.shutdown(wait=False)

    def _take(self, wanted: Wanted, number: int, listed: LogsDirs | None = None, bounds: Bounds | None = None) -> Look:
        log = LogPath(wanted.path, self._root)
        return take_look(log, wanted.job_id, wanted.known, bounds or self._bounds, number, listed)

    def _take_now(self, wanted: Wanted) -> Look:
        return self._take(wanted, next(self._numbers))

    def _take_all(self, batch: Sequence[Wanted], number: int, listed: LogsDirs) -> list[tuple[str, Look | Exception]]:
        """Look at all, each for its share of the time: a batch of long logs must not be given up with all that it found."""
        bounds = self._bounds._replace(look_s=min(self._bounds.look_s, self._timeout_s / max(1, len(batch))))
        found: list[tuple[str, Look | Exception]] = []
        for wanted in batch:
            try:
                found.append((wanted.path, self._take(wanted, number, listed, bounds)))
            except Exception as exc:  # noqa: BLE001 - One odd log must not hide the others of its batch.
                found.append((wanted.path, exc))
        return found

    def _too_slow(self) -> Unavailable:
        return Unavailable(f"the file system did not answer within {self._timeout_s:g} s", 10.0)
