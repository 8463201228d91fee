"""Batches: thousands of logs over all nodes of a Ray cluster, or over this machine's processors.

Hold in mind: the coordinator does as little per log as possible. Workers read, analyse, ask and tell the ledger, and
render the row; the coordinator keeps a bounded number of chunks in flight and appends finished rows to the results
file, which is all that a later run needs to go on where this one stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pickle
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, Protocol, cast

from attr_actors.actors.in_process import Mailbox
from attr_actors.actors.ledger import Ledger
from attr_actors.actors.model_gate import ModelGate
from attr_actors.actors.notifier import Notifier
from attr_actors.adapters.llm_keys import key_source
from attr_actors.batch_chunks import CHUNK_LOGS, MODEL_CHUNK_LOGS, cut
from attr_actors.batch_files import FoundLog, ResultsFile, find_logs
from attr_actors.batch_model import Model, asking_settings, open_opinions
from attr_actors.batch_work import Analysed, Answer, Job, analyse_logs, answer_logs, engine_of, render_answer
from attr_actors.core.result_rows import ResultRow, refused
from attr_actors.core.summary import Digest, Summary, digest
from attr_actors.errors import AnalysisFailed, LedgerFault, Unavailable
from attr_actors.handles import LedgerHandle, ModelGateHandle
from attr_actors.settings import Settings

CHUNKS_PER_CPU = 3
"""One at work and two under way keep a processor busy; more would only be repeated when the coordinator dies."""
TRIES = 3
"""How often a log may end its reader before it is given up."""
CPUS_AGE_MAX_S = 5.0
POST_TIMEOUT_S = 600.0
"""Longest effort of the sinks at the end; what is left stays owed in the ledger."""


class WorkerDied(Exception):
    """A worker ended in the middle of a chunk."""


class Workers(Protocol):
    """Where chunks are worked on."""

    def cpus(self) -> int:
        """Return the processors that work; a cluster may grow."""

    async def answer(self, job: Job, logs: Sequence[FoundLog]) -> list[Answer]:
        """Answer for the logs of a chunk. Raises WorkerDied."""


@dataclass(frozen=True)
class Run:
    """What a run did, for its report and exit code."""

    summary: Summary
    kept: int
    answered: int
    owed: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    target: str
    out: str
    local: bool = False
    post: bool = False
    ray_address: str | None = None
    workers: int | None = None
    model: bool = False


Watch = Callable[[int, int, int], Callable[[Sequence[Digest]], None]]
"""Called with the number of logs, their bytes and the rows kept; returns what to call with each chunk's digests."""


async def run_batch(plan: Plan, settings: Settings, watch: Watch) -> Run:
    """Attribute the logs that the results file does not answer yet. Raises AttrError when that cannot be done at all."""
    if plan.model:
        settings = asking_settings(settings)
    logs = find_logs(plan.target)
    summary = Summary()

    def keep(row: ResultRow) -> None:
        summary.add(digest(row))

    engine = engine_of(settings.engine).fingerprint
    with ResultsFile(plan.out) as results:
        todo = results.take_up(logs, engine, keep, plan.model)
        kept = summary.logs
        tell = watch(len(todo), sum(log.size or 0 for log in todo), kept)
        job = Job(settings.engine, engine, settings.compute_timeout)
        owed = 0
        if todo:
            async with contextlib.AsyncExitStack() as stack:
                place = await _open(plan, settings, job, stack)
                async for answers in _work(place.workers, place.job, todo):
                    results.append(answer.row for answer in answers)
                    digests = [answer.digest for answer in answers]
                    for seen in digests:
                        summary.add(seen)
                    tell(digests)
                owed = await place.post()
        return Run(summary, kept, len(todo), owed)


async def _work(workers: Workers, job: Job, logs: Sequence[FoundLog]) -> AsyncIterator[list[Answer]]:
    """Yield the answers of each chunk as it ends, with a bounded number of chunks in flight."""
    chunks = cut(logs, workers.cpus, MODEL_CHUNK_LOGS if job.model else CHUNK_LOGS)
    flying: set[asyncio.Task[list[Answer]]] = set()
    try:
        while True:
            while len(flying) < max(1, workers.cpus()) * CHUNKS_PER_CPU and (chunk := next(chunks, None)):
                flying.add(asyncio.create_task(_answer_surely(workers, job, chunk)))
            if not flying:
                return
            done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in flying:
            task.cancel()


async def _answer_surely(workers: Workers, job: Job, logs: Sequence[FoundLog]) -> list[Answer]:
    """Answer for a chunk even if one of its logs ends its readers: then each log is tried by itself."""
    for _ in range(TRIES if len(logs) == 1 else 1):
        try:
            return await workers.answer(job, logs)
        except WorkerDied:
            continue
    if len(logs) == 1:
        log = logs[0]
        fault = AnalysisFailed(f"'{log.name}' ended its reader {TRIES} times")
        return [render_answer(refused(log.name, fault, log.user, log.size, log.mtime_ns))]
    return [answer for log in logs for answer in await _answer_surely(workers, job, [log])]


# Where the work is done, and which ledger remembers it.


@dataclass(frozen=True)
class _Place:
    workers: Workers
    job: Job
    notifiers: Sequence[Notifier] = ()

    async def post(self) -> int:
        """Let the sinks take what they are owed; return what they did not take."""
        if not self.notifiers or self.job.ledger is None:
            return 0
        await asyncio.gather(*(notifier.drain(POST_TIMEOUT_S) for notifier in self.notifiers))
        counts = (await self.job.ledger.stats()).counts
        return int(sum(n for name, n in counts.items() if name.startswith("outbox.") and name.endswith((".waiting", ".leased", ".parked"))))


async def _open(plan: Plan, settings: Settings, job: Job, stack: contextlib.AsyncExitStack) -> _Place:
    return await (_open_here(plan, settings, job, stack) if plan.local else _open_on_ray(plan, settings, job, stack))


async def _open_here(plan: Plan, settings: Settings, job: Job, stack: contextlib.AsyncExitStack) -> _Place:
    own = ledger_settings(settings, plan.post)
    workers = stack.enter_context(LocalWorkers(plan.workers or os.cpu_count() or 1))
    place = await _with_ledger(workers, plan, job, own, lambda: _local_ledger(own, stack))
    if not plan.model or place.job.ledger is None:
        return place
    asking = settings.model_copy(update={"llm_calls_per_analyzer": settings.llm_calls_max})  # Nobody else asks.
    model = Model(asking, ModelGate(asking, place.job.ledger, key_source(asking)))
    opinions = await stack.enter_async_context(open_opinions(model, place.job.ledger, engine_of(job.config)))
    return replace(place, job=replace(place.job, model=model, opinions=opinions))


async def _open_on_ray(plan: Plan, settings: Settings, job: Job, stack: contextlib.AsyncExitStack) -> _Place:
    """Work on the cluster, with the ledger and the model gate of the service that runs there, else with those of one's own."""
    from attr_actors.actors.cluster import connect, join_actors, start_own_gate

    await asyncio.to_thread(connect, plan.ray_address or os.environ.get("RAY_ADDRESS", "auto"), settings)
    workers = RayWorkers(plan.workers)
    service = await asyncio.to_thread(join_actors, settings)
    if service is not None:
        # The service's ledger would send what is recorded there to its sinks, and never again: only with --post.
        record = plan.post or not any(name.startswith("notifier-") for name in service.named)
        place = _Place(workers, replace(job, ledger=service.ledger, analyzers=service.analyzers, record=record))
        gate = cast(ModelGateHandle, service.named["model-gate"])
    else:
        own = ledger_settings(settings, plan.post)
        place = await _with_ledger(workers, plan, job, own, lambda: _ray_ledger(own, stack))
        if plan.model and place.job.ledger:
            gate, stop = await asyncio.to_thread(start_own_gate, settings, place.job.ledger, _own_name("model-gate"))
            stack.callback(stop)
    return replace(place, job=replace(place.job, model=Model(settings, gate))) if plan.model else place


async def _with_ledger(workers: Workers, plan: Plan, job: Job, settings: Settings, opened: Callable[[], Awaitable[LedgerHandle]]) -> _Place:
    """Work with a ledger of one's own; a second batch at the same time works without, unless it is to post or asks a model.

    The model's replies are kept there, so that none is paid for twice. Raises LedgerFault.
    """
    try:
        ledger = await opened()
        await ledger.stats()  # A ledger that cannot be had says so when it is asked.
    except LedgerFault:
        if plan.post or plan.model:
            raise
        return _Place(workers, job)
    return _Place(workers, replace(job, ledger=ledger), [Notifier(settings, ledger, sink) for sink in settings.sink_names])


def ledger_settings(settings: Settings, post: bool) -> Settings:
    """Return the settings of a batch's own ledger: the service's ledger and sinks to post, else one that owes nobody anything.

    An answer that stands in the service's ledger counts as sent, so what is not posted must not stand there.
    """
    if post:
        return settings
    place = os.path.join(os.path.dirname(settings.model_copy(update={"cache_file": ""}).ledger_file), "batch.db")
    nobody = {"dataflow_index": "", "slack_bot_token": None, "export_url": "", "export_sinks": ""}
    return settings.model_copy(update={"cache_file": place, "ledger_lock_wait_s": 0.0, **nobody})


async def _local_ledger(settings: Settings, stack: contextlib.AsyncExitStack) -> LedgerHandle:
    ledger = await asyncio.to_thread(Ledger, settings)
    mailbox = Mailbox(ledger)
    stack.callback(ledger.close)
    stack.callback(mailbox.stop)
    return cast(LedgerHandle, mailbox)


async def _ray_ledger(settings: Settings, stack: contextlib.AsyncExitStack) -> LedgerHandle:
    """Start a ledger on this node, whose disk holds its file; it ends with the batch."""
    from attr_actors.actors.cluster import start_own_ledger

    ledger, stop = await asyncio.to_thread(start_own_ledger, settings, _own_name("ledger"))
    stack.callback(stop)
    return ledger


def _own_name(what: str) -> str:
    return f"batch-{what}-{secrets.token_hex(6)}"


class LocalWorkers:
    """Processes of this machine. The ledger is asked here, because it is this process's."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool = self._new_pool()

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def cpus(self) -> int:
        """Return the number of processes."""
        return self._number

    async def answer(self, job: Job, logs: Sequence[FoundLog]) -> list[Answer]:
        """Answer for a chunk; a process that dies takes the pool with it, which is replaced. Raises WorkerDied."""

        async def analyse(paths: Sequence[str]) -> Analysed:
            pool = self._pool
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, analyse_logs, job.config, paths, job.timeout_s)
            except BrokenProcessPool:
                if pool is self._pool:
                    self._pool = self._new_pool()
                raise WorkerDied from None

        return await answer_logs(job, logs, analyse)

    def _new_pool(self) -> ProcessPoolExecutor:
        context = get_context("forkserver")
        context.set_forkserver_preload(["attr_actors.batch_work"])  # Imported once, for all processes.
        return ProcessPoolExecutor(self._number, context)


class RayWorkers:
    """Tasks on all nodes of the cluster, one processor each."""

    def __init__(self, number: int | None) -> None:
        import ray

        self._number = number
        self._cpus = (-math.inf, 1)
        self._task: Any = ray.remote(num_cpus=1, max_retries=TRIES - 1, scheduling_strategy="SPREAD")(_answer_in_task)

    def cpus(self) -> int:
        """Return the cluster's processors; asked for now and then, because the question holds up everything else."""
        from attr_actors.actors.cluster import cluster_cpus

        asked_at, cpus = self._cpus
        if time.monotonic() - asked_at >= CPUS_AGE_MAX_S:
            cpus = self._number or cluster_cpus()
            self._cpus = time.monotonic(), cpus
        return cpus

    async def answer(self, job: Job, logs: Sequence[FoundLog]) -> list[Answer]:
        """Answer for a chunk; Ray itself repeats it when a node goes. Raises WorkerDied."""
        from ray.exceptions import RayError, RayTaskError

        try:
            return cast(list[Answer], await self._task.remote(pickle.dumps(job), list(logs)))
        except RayTaskError as exc:
            raise Unavailable(f"a worker failed: {exc.cause or exc}") from None
        except RayError:
            raise WorkerDied from None


def _answer_in_task(packed: bytes, logs: list[FoundLog]) -> list[Answer]:
    job = _unpack(packed)

    async def analyse(paths: Sequence[str]) -> Analysed:
        return analyse_logs(job.config, paths, job.timeout_s)

    async def answer() -> list[Answer]:
        if job.model is None or job.ledger is None:
            return await answer_logs(job, logs, analyse)
        async with open_opinions(job.model, job.ledger, engine_of(job.config)) as opinions:
            return await answer_logs(replace(job, opinions=opinions), logs, analyse)

    return asyncio.run(answer())


@lru_cache(1)
def _unpack(packed: bytes) -> Job:
    """Return the job; a worker that does many chunks keeps it, and with it the actors that its handles found."""
    return cast(Job, pickle.loads(packed))
