"""The HTTP API on a real port of loopback, over in-process actors: what clients and commands are tested against."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from attr_actors.actors.in_process import LocalActors
from attr_actors.settings import Settings
from serve_app.api import build_api
from serve_app.service import AttributionService
from tests.api.conftest import OOM_LOG


@dataclass
class Running:
    """A running API and the directory that it may read."""

    url: str
    root: Path

    def write(self, name: str, text: str = OOM_LOG) -> str:
        """Write a log below the root and return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)


class _Server(threading.Thread):
    def __init__(self, settings: Settings) -> None:
        super().__init__(name="api")
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self.ready = threading.Event()
        self.port = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        actors = LocalActors(self._settings)
        service = AttributionService(self._settings, actors.ledger, actors.tracker, actors.analyzers, actors.notifiers)
        config = uvicorn.Config(build_api(self._settings, service), port=0, log_level="critical", lifespan="on", ws="none")
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # uvicorn has no event for it.
            await asyncio.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.ready.set()
        await serving
        await actors.stop()

    def stop(self) -> None:
        assert self._server
        self._server.should_exit = True
        self.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One API per module, with a ledger of its own; tests use files of their own."""
    place = tmp_path_factory.mktemp("api")
    root = place / "logs"
    root.mkdir()
    server = _Server(Settings.load(allowed_root=str(root), cache_file=str(place / "api.db"), analyzers=1))
    server.start()
    assert server.ready.wait(30)
    yield Running(f"http://127.0.0.1:{server.port}", root)
    server.stop()
