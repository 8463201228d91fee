"""The Python API: the service's answers inside a program of one's own, without HTTP.

    >>> import asyncio, pathlib, tempfile
    >>> from attr_actors import AnalyzerConfig, LogAnalyzer
    >>> logs = tempfile.TemporaryDirectory()
    >>> log = pathlib.Path(logs.name, "slurm-12345.out")
    >>> _ = log.write_text("step 10 loss 2.1\\nModuleNotFoundError: No module named 'apex'\\n")

    >>> async def main():
    ...     analyzer = LogAnalyzer(AnalyzerConfig(allowed_root=logs.name))
    ...     submitted = await analyzer.submit(str(log), user="alice")
    ...     answer = await analyzer.analyze(str(log))
    ...     analyzer.shutdown()
    ...     return submitted.mode, answer.recommendation.action, answer.attribution.root_lines[0].line_number
    >>> asyncio.run(main())
    (<JobMode.SINGLE: 'single'>, 'STOP', 2)
    >>> logs.cleanup()

Hold in mind: answers are the same objects, made by the same code, that the HTTP service sends, and faults are the same
errors (``attr_actors.errors``). Everything runs on an event loop of its own in a thread, so an analyzer can be made
anywhere, used from several loops, and ended without ``await``.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

from attr_actors.errors import BadSettings, Unavailable
from attr_actors.handles import Actors
from attr_actors.models import Intent, JobMode
from attr_actors.settings import Settings
from serve_app.bodies import HealthReply, InflightReply, JobsReply, ResultReply, SubmitBody, SubmitReply
from serve_app.figures import FigureBook
from serve_app.overview import Overview
from serve_app.service import AttributionService as Service
from serve_app.service import ResultQuery
from serve_app.stats import group

T = TypeVar("T")


class AnalyzerConfig:
    """Where logs may be, where to work, and any setting of the service by its field name.

    Values that are not given come from the environment, as for the service. Without ``cache_file`` answers are
    remembered until the analyzer ends, in a temporary ledger.

        >>> AnalyzerConfig(allowed_root="/tmp", compute_timeout=60).settings.compute_timeout
        60.0
        >>> AnalyzerConfig(allowed_root="/tmp", compute_timeuot=60)
        Traceback (most recent call last):
        attr_actors.errors.BadSettings: there is no setting 'compute_timeuot'
    """

    def __init__(self, allowed_root: str, ray_address: str | None = None, **settings: Any) -> None:
        """Check the values. ``ray_address`` names a Ray cluster; without it everything runs in this process. Raises BadSettings."""
        unknown = sorted(set(settings) - set(Settings.model_fields))
        if unknown:
            raise BadSettings("\n".join(f"there is no setting '{name}'" for name in unknown))
        self.settings = Settings.load(allowed_root=allowed_root, **settings)
        self.ray_address = ray_address


def setup() -> Settings:
    """Read the service's settings from the environment and set the level of its log.

    >>> import os
    >>> os.environ["NVRX_ATTRSVC_ALLOWED_ROOT"] = "/tmp"
    >>> setup().allowed_root
    '/tmp'
    """
    settings = Settings.load()
    logging.getLogger("attr_actors").setLevel(settings.log_level_name)
    return settings


class LogAnalyzer:
    """Tells why jobs died; see the module's example. Also an async context manager, which ends it.

    In process by default. With ``ray_address`` it asks the service's actors on that cluster; where none run it starts
    them, and ends them with itself.
    """

    def __init__(self, config: AnalyzerConfig) -> None:
        """Start the actors or find them. Raises BadSignature, Unavailable."""
        self._home = _Home(config.settings, config.ray_address)

    async def __aenter__(self) -> LogAnalyzer:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    async def submit(
        self,
        log_path: str,
        user: str = "unknown",
        job_id: str | None = None,
        cycle_id: int | None = None,
        analysis_intent: Intent = Intent.TRACK_ONLY,
    ) -> SubmitReply:
        """Track a job's log, which need not exist yet; a job with LOGS_DIR needs its ``job_id``.

        Raises RequestError (the path or a parameter is wrong) or BusyError (try again later).
        """
        body = SubmitBody.of(log_path=log_path, user=user, job_id=job_id, cycle_id=cycle_id, analysis_intent=analysis_intent)
        return await self._home.ask(lambda service: service.submit(body))

    async def analyze(
        self,
        log_path: str,
        file: str | None = None,
        wl_restart: int | None = None,
        *,
        all_files: bool = False,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> ResultReply:
        """Return the answer for a log, or for one ``file`` of a job with LOGS_DIR; ``.attribution`` is its structured part.

        Raises RequestError (the path or a parameter is wrong) or BusyError (try again later).

            >>> async def why(path):
            ...     async with LogAnalyzer(AnalyzerConfig(allowed_root="/tmp")) as analyzer:
            ...         return await analyzer.analyze(path)
            >>> asyncio.run(why("/etc/passwd"))
            Traceback (most recent call last):
            attr_actors.errors.OutsideRoot: '/etc/passwd' is outside the allowed root
        """
        query = ResultQuery(log_path, wl_restart, wait, timeout_s, file, all_files)
        return await self._home.ask(lambda service: service.result(query))

    async def read_file_preview(self, log_path: str) -> str:
        """Return the first 4096 bytes of a log as text. Raises RequestError."""
        return (await self._home.ask(lambda service: service.preview(log_path))).decode(errors="replace")

    async def get_stats(self) -> dict[str, dict[str, Any]]:
        """Return the counters by group, as GET /stats does."""
        return group(await self._home.ask(lambda _: self._home.overview.counters()))

    async def get_all_jobs(self, mode: JobMode | None = None, limit: int = 1000, offset: int = 0) -> JobsReply:
        """Return one page of tracked jobs, newest first."""
        return await self._home.ask(lambda service: service.jobs(mode, limit, offset))

    async def get_inflight(self) -> InflightReply:
        """Return the analyses under way."""
        return await self._home.ask(lambda service: service.inflight())

    async def get_health(self) -> HealthReply:
        """Return how the actors are."""
        return await self._home.ask(lambda _: self._home.overview.health())

    def shutdown(self) -> Awaitable[None]:
        """End the analyzer; what it acknowledged is in its ledger. It has ended when this returns; awaiting it is allowed."""
        self._home.close()
        return _Done()


class AttributionService(LogAnalyzer):
    """The HTTP service's twin in this process, over the service's own ledger and sinks.

    >>> from attr_actors import AttributionService, setup
    >>> import os
    >>> os.environ["NVRX_ATTRSVC_ALLOWED_ROOT"] = "/tmp"
    >>> os.environ["NVRX_ATTRSVC_CACHE_FILE"] = os.path.join(tempfile.mkdtemp(), "ledger.db")
    >>> async def main():
    ...     service = AttributionService(setup())
    ...     health = await service.get_health()
    ...     service.shutdown()
    ...     return health.status
    >>> asyncio.run(main())
    'ok'
    """

    def __init__(self, settings: Settings) -> None:
        """Open the ledger that the settings name. While a running service holds it, every call raises LedgerFault."""
        self._home = _Home(settings.model_copy(update={"cache_file": settings.ledger_file}), None)

    submit_log = LogAnalyzer.submit
    analyze_log = LogAnalyzer.analyze


class _Done:
    """What ``shutdown()`` returns: nothing is left to wait for."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


@asynccontextmanager
async def find_or_open_actors(settings: Settings, ray_address: str | None = None) -> AsyncIterator[Actors]:
    """Open actors in this process, on its running loop; or join those of a Ray cluster, opening them where none run."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.get_running_loop().shutdown_default_executor)
        yield _open_here(settings, stack) if ray_address is None else await _join(settings, ray_address, stack)


def _open_here(settings: Settings, stack: AsyncExitStack) -> Actors:
    from attr_actors.actors.in_process import LocalActors

    if not settings.cache_file:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="attr-actors-", ignore_cleanup_errors=True))
        settings = settings.model_copy(update={"cache_file": f"{place}/ledger.db"})
    local = LocalActors(settings)
    stack.push_async_callback(local.stop)
    return local.handles


async def _join(settings: Settings, address: str, stack: AsyncExitStack) -> Actors:
    from attr_actors.actors.cluster import connect, join_actors, open_actors, stop_actors

    await asyncio.to_thread(connect, address, settings)
    running = await asyncio.to_thread(join_actors, settings)
    if running is not None:
        return running
    opened = await asyncio.to_thread(open_actors, settings)
    stack.push_async_callback(asyncio.to_thread, stop_actors, settings)
    return opened


class _Home:
    """A service on an event loop of its own, in a thread that ends with it."""

    def __init__(self, settings: Settings, ray_address: str | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="attr-actors", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._open = True
        try:
            actors = self._run(self._stack.enter_async_context(find_or_open_actors(settings, ray_address)))
            self._service = Service(settings, actors)
            self.overview = Overview(actors, FigureBook(actors.meter))
        except BaseException:
            self.close()
            raise

    async def ask(self, question: Callable[[Service], Coroutine[Any, Any, T]]) -> T:
        """Answer a question on the home loop, from any loop."""
        if not self._open:
            raise Unavailable("the analyzer was shut down")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question(self._service), self._loop))

    def close(self) -> None:
        """Stop what was started and end the thread. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
