"""Threads that touch file systems, shared out so that a hung one holds up its own requests only.

Hold in mind: a thread inside a hung file system cannot be ended. So a mount gets a share of the threads and no more; once
its share is stuck, further requests for it are refused at once, and every other mount goes on. No thread is ever replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from attr_actors.errors import AttrError, Overloaded, Unavailable

T = TypeVar("T")

MOUNTS_AGE_MAX_S = 10.0
"""The list of mounts is read again after this; mounts come and go seldom, and reading it touches none of them."""

SHARES = 4
"""As many mounts may hang at once before others are held up."""


class _Mount:
    """The slots of one mount, and who waits for them: the urgent first, each in the order of arrival."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free = slots
        self.stuck = 0
        self.urgent: OrderedDict[object, asyncio.Future[None]] = OrderedDict()
        self.patient: OrderedDict[object, asyncio.Future[None]] = OrderedDict()

    async def take(self, ticket: object, background: bool) -> None:
        if self.free > 0:
            self.free -= 1
            return
        lane = self.patient if background else self.urgent
        turn = lane[ticket] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise
        finally:
            self.urgent.pop(ticket, None)
            self.patient.pop(ticket, None)

    def give_back(self) -> None:
        for lane in (self.urgent, self.patient):
            while lane:
                _, turn = lane.popitem(last=False)
                if not turn.done():
                    turn.set_result(None)
                    return
        self.free += 1

    def hurry(self, ticket: object) -> None:
        turn = self.patient.pop(ticket, None)
        if turn is not None:
            self.urgent[ticket] = turn

    @property
    def waiting(self) -> int:
        return len(self.urgent) + len(self.patient)


class FileThreads:
    """Runs blocking work on files; ``slots`` at a time and mount, the urgent before the background."""

    def __init__(self, name: str, slots: int, waiting_max: int, mounts: Callable[[], list[str]] | None = None) -> None:
        self._slots = slots
        self._waiting_max = waiting_max
        self._threads = ThreadPoolExecutor(slots * SHARES, thread_name_prefix=name)
        self._read_mounts = mounts or read_mounts
        self._points: tuple[float, list[str]] = (-MOUNTS_AGE_MAX_S, [])
        self._mounts: dict[str, _Mount] = {}

    async def run(self, path: str, work: Callable[[], T], timeout_s: float, background: bool = False, ticket: object = None) -> T:
        """Return what ``work()`` returns. ``ticket`` is the name for ``hurry()``; it must be unique among those who wait.

        Raises what ``work()`` raises; Unavailable after ``timeout_s`` or when the mount hangs, Overloaded when too many wait.
        """
        point = self._mount_point(path)
        mount = self._mounts.setdefault(point, _Mount(self._slots))
        if mount.stuck >= mount.slots or self.stuck >= self._slots * SHARES:
            raise Unavailable(f"the file system at '{point}' does not answer", 10.0)
        if mount.waiting >= self._waiting_max:
            raise Overloaded(f"{self._waiting_max} requests wait for the file system at '{point}'", 5.0)
        started: asyncio.Future[T] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                await mount.take(ticket if ticket is not None else object(), background)
                started = asyncio.get_running_loop().run_in_executor(self._threads, work)
                started.add_done_callback(lambda done: self._finish(mount, done))
                return await asyncio.shield(started)
        except TimeoutError:
            if started is None:
                raise Unavailable(f"the file system at '{point}' is too busy", 10.0) from None
            if not started.done():
                mount.stuck += 1
                started.add_done_callback(lambda _: self._recover(mount))
            raise Unavailable(f"the file system at '{point}' did not answer within {timeout_s:g} s", 10.0) from None

    async def run_together(self, items: Sequence[tuple[str, Callable[[], T]]], patience_s: float) -> list[T | AttrError | None]:
        """Return what each ``work()`` of (path, work) returns or raises, in order; one thread per mount goes through them.

        None: it was not done in time, or it failed in a way that nobody expects; ``run()`` it alone.
        """
        answers: list[T | AttrError | None] = [None] * len(items)
        places: dict[str, list[int]] = {}
        for place, (path, _) in enumerate(items):
            places.setdefault(self._mount_point(path), []).append(place)
        await asyncio.wait([asyncio.create_task(self._run_group(items, group, answers, patience_s)) for group in places.values()])
        return list(answers)  # A copy: a thread that is late still writes into the first list.

    async def _run_group(
        self, items: Sequence[tuple[str, Callable[[], T]]], group: list[int], answers: list[T | AttrError | None], patience_s: float
    ) -> None:
        until = time.monotonic() + patience_s

        def work() -> None:
            for place in group:
                if time.monotonic() >= until:  # Nobody takes these answers any more.
                    return
                try:
                    answers[place] = items[place][1]()
                except AttrError as exc:
                    answers[place] = exc
                except Exception:  # noqa: BLE001 - An odd one must not hide the others; alone it shows what it is.
                    continue

        with contextlib.suppress(AttrError):
            await self.run(items[group[0]][0], work, patience_s)

    def hurry(self, path: str, ticket: object) -> None:
        """Let work that waits in the background go before what else waits there."""
        mount = self._mounts.get(self._mount_point(path))
        if mount is not None:
            mount.hurry(ticket)

    def close(self) -> None:
        """Let the threads end; one inside a hung file system ends with its process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def stuck(self) -> int:
        """Return the number of threads whose caller gave up."""
        return sum(mount.stuck for mount in self._mounts.values())

    def hung_mounts(self) -> list[str]:
        """Return the mounts that no longer answer."""
        return [point for point, mount in self._mounts.items() if mount.stuck >= mount.slots]

    def _finish(self, mount: _Mount, done: asyncio.Future[T]) -> None:
        if not done.cancelled():
            done.exception()  # Mark it as seen: the caller may have given up.
        mount.give_back()

    def _recover(self, mount: _Mount) -> None:
        mount.stuck -= 1

    def _mount_point(self, path: str) -> str:
        read_at, points = self._points
        if time.monotonic() - read_at >= MOUNTS_AGE_MAX_S:
            points = sorted(self._read_mounts(), key=len, reverse=True)
            self._points = (time.monotonic(), points)
        inside = os.path.normpath(path) + "/"
        return next((point for point in points if inside.startswith(point.rstrip("/") + "/")), "/")


def read_mounts() -> list[str]:
    """Return the mount points of this machine, from the kernel's list and without touching them."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ["/"]  # Not Linux, or no /proc: everything counts as one mount.
    points = [line.split(" ")[4] for line in lines]
    return [point.encode("latin-1", "replace").decode("unicode_escape") if "\\" in point else point for point in points]
