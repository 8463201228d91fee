"""Replies that this replica answers again without asking an actor.

Hold in mind: the ledger's rule decides, here as there: inside the grace period a reply stands, afterwards while the log
has the size and mtime that were analysed. What the rule does not see (a path that now leads elsewhere, a job that
changed its mode) is bounded by ``answer_cache_age_max_s``: an older reply is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from attr_actors.core.validity import in_grace
from attr_actors.models import Analysis
from attr_actors.settings import Settings

Key = tuple[str | None, bytes]
"""The root that confines the caller, and the query as it was sent."""

OVERHEAD_BYTES = 1000
"""What a kept reply takes beyond its body."""

JOIN_S = 0.25
"""Longest wait for a reply that another request is having made, s; what takes longer is shared out by the analyzers."""


class Answer(NamedTuple):
    """A final body, and the analysis (without its cycles) that it stands on."""

    body: bytes
    basis: Analysis
    kept_at: float


class AnswerCache:
    """A bounded cache; the reply that was not asked for longest goes first."""

    def __init__(self, settings: Settings) -> None:
        self._bytes_max = settings.answer_cache_bytes_max
        self._age_max_s = settings.answer_cache_age_max_s
        self._grace_s = settings.cache_grace_period_seconds
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._making: dict[Key, asyncio.Event] = {}
        self.bytes = 0

    def gauges(self) -> dict[str, float]:
        """Return what is kept, for the figures."""
        return {"cache.replica_entries": float(len(self._answers)), "cache.replica_bytes": float(self.bytes)}

    def find(self, key: Key) -> Answer | None:
        """Return what is kept and young enough."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        if not 0 <= time.time() - answer.kept_at < self._age_max_s:
            self.drop(key)
            return None
        self._answers.move_to_end(key)
        return answer

    @contextlib.contextmanager
    def making(self, key: Key) -> Iterator[None]:
        """Have a reply made, while requests for the same one may ``join()``. Else all readers of a reply would ask when it is too old.

        Where nothing is kept, there is nothing to wait for.
        """
        if key in self._making or not self._bytes_max or not self._age_max_s:
            yield
            return
        made = self._making[key] = asyncio.Event()
        try:
            yield
        finally:
            del self._making[key]
            made.set()

    async def join(self, key: Key) -> Answer | None:
        """Wait for the reply that another request is having made; None if there is none, or it takes long or is not kept."""
        made = self._making.get(key)
        if made is None:
            return None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(made.wait(), JOIN_S)
        return self.find(key)

    def needs_stat(self, answer: Answer) -> bool:
        """Tell whether the grace period is over, so that the log must be looked at."""
        return not in_grace(answer.basis, time.time(), self._grace_s)

    def keep(self, key: Key, body: bytes, basis: Analysis) -> None:
        """Keep a reply, unless it alone would fill the cache."""
        self.drop(key)
        size = _size(key, body)
        if size * 4 > self._bytes_max:
            return
        self._answers[key] = Answer(body, basis.model_copy(update={"cycles": ()}), time.time())
        self.bytes += size
        while self.bytes > self._bytes_max:
            self.drop(next(iter(self._answers)))

    def drop(self, key: Key) -> None:
        """Forget a reply."""
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.bytes -= _size(key, answer.body)


def _size(key: Key, body: bytes) -> int:
    return len(key[1]) + len(body) + OVERHEAD_BYTES
