"""The analyses that the tracker owes: each complete file, a few at a time, until it has its answer.

Hold in mind: this is a work list in memory, never the truth. What is owed follows from the saved jobs; an errand lost
in a crash or given up here comes again with the next look at its job.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

from attr_actors import tracing
from attr_actors.core.job_events import Analyse, Analysed
from attr_actors.errors import AnalysisFailed, AttrError, RequestError
from attr_actors.handles import AnalyzerHandle, pick
from attr_actors.models import AnalyzeRequest

log = logging.getLogger(__name__)


class Backlog:
    """Runs errands with bounded concurrency and reports each answered file once."""

    def __init__(
        self,
        analyzers: Sequence[AnalyzerHandle],
        report: Callable[[Analysed], None],
        workers_max: int,
        analysis_timeout_s: float,
        tell_timeout_s: float,
    ) -> None:
        self._analyzers = analyzers
        self._report = report
        self._workers_max = workers_max
        self._analysis_timeout_s = analysis_timeout_s
        self._tell_timeout_s = tell_timeout_s
        self._queue: deque[Analyse] = deque()
        self._known: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = 0
        self.counts: Counter[str] = Counter()

    def add(self, errand: Analyse) -> None:
        """Take on an errand unless its file is on the list already; an urgent one is also started at once."""
        if errand.urgent:
            request = AnalyzeRequest(path=errand.log, requester=errand.requester)
            self._spawn(self._tell(errand.log, lambda analyzer: analyzer.start(request)))
        if (errand.path, errand.name) in self._known:
            return
        self._known.add((errand.path, errand.name))
        self._queue.append(errand)
        if self._workers < self._workers_max:
            self._workers += 1
            self._spawn(self._work())

    def follow(self, path: str) -> None:
        """Tell the analyzer to read on in a growing log."""
        self._spawn(self._tell(path, lambda analyzer: analyzer.follow(path)))

    @property
    def waiting(self) -> int:
        """Return the number of files on the list."""
        return len(self._known)

    def _spawn(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, path: str, call: Callable[[AnalyzerHandle], Awaitable[None]]) -> None:
        """Nudge the analyzer. A lost nudge costs latency only: errands stay on the list, and a followed log is read at its end."""
        try:
            async with asyncio.timeout(self._tell_timeout_s):
                await call(pick(self._analyzers, path))
        except (AttrError, TimeoutError) as exc:
            self.counts["background.nudges_lost"] += 1
            log.info("the analyzer of '%s' could not be nudged: %s", path, type(exc).__name__)

    async def _work(self) -> None:
        tracing.leave()  # It takes on the errands of others as well.
        try:
            while self._queue:
                errand = self._queue.popleft()
                try:
                    await self._run(errand)
                finally:
                    self._known.discard((errand.path, errand.name))
        finally:
            self._workers -= 1

    async def _run(self, errand: Analyse) -> None:
        request = AnalyzeRequest(path=errand.log, requester=errand.requester, background=not errand.urgent)
        content = errand.content
        try:
            async with asyncio.timeout(self._analysis_timeout_s):
                analysis = await pick(self._analyzers, errand.log).analyze(request)
            content = (analysis.snapshot.size, analysis.snapshot.mtime_ns)
            self.counts["background.analysed"] += 1
        except (RequestError, AnalysisFailed) as exc:  # The same content would fail again.
            self.counts["background.without_answer"] += 1
            log.info("'%s' has no answer: %s", errand.log, exc.message)
        except (AttrError, TimeoutError) as exc:
            self.counts["background.put_off"] += 1
            log.info("the analysis of '%s' is put off to the next look: %s", errand.log, type(exc).__name__)
            return
        except Exception:  # One odd errand must not end the loop; the next look brings it again.
            self.counts["background.crashed"] += 1
            log.exception("the analysis of '%s' failed unexpectedly", errand.log)
            return
        self._report(Analysed(errand.path, errand.name, content))
