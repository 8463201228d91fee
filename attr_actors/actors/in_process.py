"""Actors without Ray: the same classes in this process, for the Python API and the fast tests."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from attr_actors.actors.analyzer import Analyzer
from attr_actors.actors.ledger import Ledger
from attr_actors.actors.limiter import Limiter
from attr_actors.actors.meter import Meter
from attr_actors.actors.model_gate import ModelGate
from attr_actors.actors.notifier import Notifier
from attr_actors.actors.tracker import Tracker
from attr_actors.adapters.llm_keys import key_source
from attr_actors.handles import Actors, LedgerHandle, Reporting
from attr_actors.settings import Settings


class Mailbox:
    """Makes a synchronous actor awaitable: one call at a time, in a thread of its own, in the order of arrival."""

    def __init__(self, actor: object) -> None:
        self._actor = actor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=type(actor).__name__.lower())

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return functools.partial(self._deliver, getattr(self._actor, method))

    async def _deliver(self, method: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, method, *args)

    def stop(self) -> None:
        """End the thread after the calls that wait."""
        self._thread.shutdown()


class LocalActors:
    """All actors of the plan in this process, on the running loop."""

    def __init__(self, settings: Settings) -> None:
        self._ledger = Ledger(settings)
        self._mailbox = Mailbox(self._ledger)
        self.ledger = cast(LedgerHandle, self._mailbox)
        self.gate = ModelGate(settings, self.ledger, key_source(settings))
        self.analyzers = tuple(Analyzer(settings, self.ledger, f"analyzer-{i}", self.gate) for i in range(settings.analyzers))
        self.tracker = Tracker(settings, self.ledger, self.analyzers)
        self.notifiers = tuple(Notifier(settings, self.ledger, sink) for sink in settings.sink_names)
        self._drain_timeout_s = settings.drain_timeout_s
        limiter, meter = Limiter(settings), Meter(settings)
        named: dict[str, Reporting] = {"ledger": self.ledger, "limiter": limiter, "meter": meter, "model-gate": self.gate}
        named |= {f"analyzer-{i}": analyzer for i, analyzer in enumerate(self.analyzers)} | {"tracker": self.tracker}
        named |= {f"notifier-{sink}": notifier for sink, notifier in zip(settings.sink_names, self.notifiers, strict=True)}
        self.handles = Actors(self.ledger, self.tracker, self.analyzers, limiter, meter, named)

    async def stop(self) -> None:
        """End the actors; nothing acknowledged is lost."""
        await self.tracker.stop()
        await asyncio.gather(*(analyzer.close() for analyzer in self.analyzers))
        await asyncio.gather(*(notifier.drain(self._drain_timeout_s) for notifier in self.notifiers))
        self._mailbox.stop()
        self._ledger.close()
