"""A tracker between in-process twins, over a real directory."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from attr_actors.actors.tracker import Tracker
from attr_actors.settings import Settings
from tests.twins import MemoryLedger, TwinAnalyzer


class World:
    """A tracker between twins, over a real directory; ``restart()`` is a kill -9 and a new process."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.now = time.time()
        self.settings = Settings(allowed_root=str(root), poll_interval_s=3600, **settings)
        self.ledger = MemoryLedger()
        self.analyzers = [TwinAnalyzer(), TwinAnalyzer()]
        self.tracker = self._tracker()

    def _tracker(self) -> Tracker:
        return Tracker(self.settings, self.ledger, self.analyzers, clock=lambda: self.now)  # type: ignore[arg-type]

    async def restart(self) -> None:
        await self.close()
        self.tracker = self._tracker()
        await self.tracker.start()

    async def close(self) -> None:
        await abandon(self.tracker)

    async def drained(self) -> None:
        while tasks := self.tracker._backlog._tasks:
            await asyncio.wait(tasks)

    def write(self, name: str, text: str) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def append(self, name: str, text: str) -> None:
        with (self.root / name).open("a") as f:
            f.write(text)

    def splitlog(self, logs: dict[str, str], name: str = "slurm-7.out") -> str:
        for log, text in logs.items():
            self.write(f"logs/{log}", text)
        (self.root / "logs").mkdir(exist_ok=True)
        return self.write(name, paths_block(self.root / "logs") + "x" * 5000 + "\n")

    @property
    def analysed(self) -> list[str]:
        return sorted(Path(path).name for a in self.analyzers for path, _, _ in a.analysed.elements())

    @property
    def started(self) -> list[str]:
        return sorted(Path(path).name for a in self.analyzers for path in a.started)


async def abandon(tracker: Tracker) -> None:
    """Drop a tracker as kill -9 does: nothing is written any more."""
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tracker._looks.close()


def paths_block(logs_dir: Path) -> str:
    return f"<< START PATHS >>\nLOGS_DIR={logs_dir}\n<< END PATHS >>\n"
