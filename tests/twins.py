"""Small in-process twins of the actors around the tracker: the same methods, no Ray, no disk."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

from attr_actors.errors import AttrError
from attr_actors.models import Action, Analysis, AnalyzeRequest, Attribution, Category, Flight, Health, Peek, Snapshot, Stats

ANSWER = Attribution(action=Action.RESTART, category=Category.UNKNOWN, rule="twin", root_cause="a twin's answer")


class MemoryLedger:
    """Keeps job rows in a dict, which stands for the disk: it outlives any tracker."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.saves = 0
        self.fault: AttrError | None = None
        self.gate: asyncio.Event | None = None

    async def load_jobs(self, after_path: str, limit: int) -> tuple[str, ...]:
        if self.fault:
            raise self.fault
        return tuple(self.rows[p] for p in sorted(self.rows) if p > after_path)[:limit]

    async def save_jobs(self, jobs: tuple[tuple[str, str], ...], forget: tuple[str, ...]) -> None:
        if self.gate:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        self.saves += 1
        self.rows.update(jobs)
        for path in forget:
            self.rows.pop(path, None)


class TwinAnalyzer:
    """Answers from the file's content identity and counts real analyses; its ``stored`` dict stands for the ledger."""

    def __init__(self, stored: dict[str, Analysis] | None = None) -> None:
        self.stored = {} if stored is None else stored
        self.analysed: Counter[tuple[str, int, int]] = Counter()
        self.requests: list[AnalyzeRequest] = []
        self.started: list[str] = []
        self.followed: list[str] = []
        self.fault: AttrError | None = None

    async def analyze(self, request: AnalyzeRequest) -> Analysis:
        self.requests.append(request)
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        found = os.stat(request.path)
        snapshot = Snapshot(path=request.path, size=found.st_size, mtime_ns=found.st_mtime_ns)
        stored = self.stored.get(request.path)
        if stored is None or stored.snapshot != snapshot:
            self.analysed[request.path, snapshot.size, snapshot.mtime_ns] += 1
            stored = Analysis(snapshot=snapshot, engine="twin", cycles=(ANSWER,), result_id="0" * 64, analysed_at=0.0)
            self.stored[request.path] = stored
        return stored

    async def start(self, request: AnalyzeRequest) -> None:
        if self.fault:
            raise self.fault
        self.started.append(request.path)

    async def follow(self, path: str) -> None:
        self.followed.append(path)

    async def peek(self, path: str) -> Peek:
        return Peek(status="completed" if path in self.stored else "pending", analysis=self.stored.get(path))

    async def flights(self) -> tuple[Flight, ...]:
        return ()

    async def stats(self) -> Stats:
        return Stats()

    async def health(self) -> Health:
        return Health(name="analyzer-0", version="0", fingerprint="", pid=0, started_at=0)
