"""Submissions that come together go to the tracker together: while one call is under way, the next ones collect.

Hold in mind: a thread for the files, a hop to another process and a durable write cost the same for one job as for a hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attr_actors.errors import AttrError
from attr_actors.file_threads import FileThreads
from attr_actors.handles import SubmitAnswer, TrackerHandle
from attr_actors.models import JobView, Submission

TOGETHER_MAX = 200
"""Submissions per call; more form a further call. How many wait at all is limited by the door."""

TOGETHER_S = 0.25
"""Those who came together wait for each other's files no longer than this; a slow one goes on alone."""

Check = Callable[[], Submission]
"""Admits the path of a submission. It blocks on the file system and raises what is wrong with the path."""


class _Batch:
    """Submissions of one call. ``call`` gives their answers in the same order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Check]] = []
        self.sent = False
        self.call: asyncio.Task[tuple[SubmitAnswer, ...]]

    @property
    def is_open(self) -> bool:
        return not self.sent and len(self.asked) < TOGETHER_MAX


class Submissions:
    """The way of POST /logs to the tracker; one per replica."""

    def __init__(self, tracker: TrackerHandle, files: FileThreads, file_timeout_s: float) -> None:
        self._tracker = tracker
        self._files = files
        self._file_timeout_s = file_timeout_s
        self._last: _Batch | None = None

    async def submit(self, log_path: str, check: Check) -> JobView:
        """Register or refresh a job; durable when it returns. Raises what ``check()`` and the tracker raise.

        A caller that goes away takes nobody with it: the call is a task of its own.
        """
        batch = self._last if self._last and self._last.is_open else self._begin()
        place = len(batch.asked)
        batch.asked.append((log_path, check))
        answer = (await asyncio.shield(batch.call))[place]
        if isinstance(answer, AttrError):
            raise answer
        return answer or await self._tracker.submit(await self._files.run(log_path, check, self._file_timeout_s))

    def _begin(self) -> _Batch:
        batch, before = _Batch(), self._last
        batch.call = asyncio.create_task(self._send(batch, before.call if before else None))
        batch.call.add_done_callback(lambda call: call.cancelled() or call.exception())  # Its callers may all have gone.
        self._last = batch
        return batch

    async def _send(self, batch: _Batch, before: asyncio.Task[tuple[SubmitAnswer, ...]] | None) -> tuple[SubmitAnswer, ...]:
        if before is not None and not before.done():
            await asyncio.wait([before])
        batch.sent = True
        checked = await self._files.run_together(batch.asked, TOGETHER_S)
        admitted = tuple(found for found in checked if isinstance(found, Submission))
        told = iter(await self._tracker.submit_many(admitted) if admitted else ())
        return tuple(next(told) if isinstance(found, Submission) else found for found in checked)
