"""The HTTP API on a real port of loopback, over in-process actors: what clients and commands are tested against."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn

from attr_actors.actors.in_process import LocalActors
from attr_actors.settings import Settings
from serve_app.door import Door
from tests.api.conftest import OOM_LOG


@dataclass
class Running:
    """A running API and the directory that it may read."""

    url: str
    root: Path
    stop: Callable[[], None]

    def write(self, name: str, text: str = OOM_LOG) -> str:
        """Write a log below the root and return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)


class _Door(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready(self.servers[0].sockets[0].getsockname()[1])


class _Server(threading.Thread):
    def __init__(self, settings: Settings) -> None:
        super().__init__(name="api")
        self._settings = settings
        self._door: _Door | None = None
        self.ready = threading.Event()
        self.port = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        actors = LocalActors(self._settings)
        app = Door(self._settings, actors.handles)
        self._door = _Door(uvicorn.Config(cast(Any, app), port=0, log_level="critical", ws="none"), self._opened)
        await self._door.serve()
        await actors.stop()

    def _opened(self, port: int) -> None:
        self.port = port
        self.ready.set()

    def stop(self) -> None:
        assert self._door
        self._door.should_exit = True
        self.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One API per module, with a ledger of its own; tests use files of their own."""
    place = tmp_path_factory.mktemp("api")
    root = place / "logs"
    root.mkdir()
    server = _Server(
        Settings.load(allowed_root=str(root), cache_file=str(place / "api.db"), analyzers=1, rate_limit_analyze="100000/minute")
    )
    server.start()
    assert server.ready.wait(30)
    yield Running(f"http://127.0.0.1:{server.port}", root, server.stop)
    server.stop()
