"""Settings, an in-process ledger handle and a clock by hand, for tests of the actors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from attr_actors.settings import Settings


def settings(place: Path, **more: object) -> Settings:
    return Settings(allowed_root=str(place), cache_file=str(place / "ledger.db"), _env_file=None, **more)  # type: ignore[arg-type]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now += duration_s
        await asyncio.sleep(0)


class InProcess:
    """A handle on an object in this process: the same methods, awaited."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        async def call(*args: object) -> object:
            return method(*args)

        return call


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait until the condition holds; fail at the deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in other tasks and threads)
            await asyncio.sleep(0.002)
