"""The whole HTTP API over in-process actors, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from attr_actors.actors.in_process import LocalActors
from attr_actors.settings import Settings
from serve_app.door import Door
from serve_app.traced_door import TracedDoor

OOM_LOG = """\
2026-05-01 10:00:00 INFO starting training on node7
 iteration       10/    1000 | consumed samples:  640 | elapsed time per iteration (ms): 510.1 | lm loss: 4.21E+00 |
 iteration       20/    1000 | consumed samples: 1280 | elapsed time per iteration (ms): 509.7 | lm loss: 4.02E+00 |
Traceback (most recent call last):
  File "/app/train.py", line 88, in <module>
    main()
  File "/app/train.py", line 61, in main
    loss = model(batch)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free.
"""


class Api:
    """A client of the API and the directory that it may read."""

    def __init__(self, client: TestClient, root: Path, door: Door) -> None:
        self.client = client
        self.root = root
        self.door = door

    def write(self, name: str, text: str | bytes = OOM_LOG) -> str:
        """Write a log below the root and return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def get(self, log_path: str, **params: object) -> dict[str, object]:
        """GET /logs and return the body of a 200."""
        reply = self.client.get("/logs", params={"log_path": log_path, **params})
        assert reply.status_code == 200, reply.text
        body: dict[str, object] = reply.json()
        return body


@pytest.fixture
def open_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Open an API with settings of one's own."""
    root = tmp_path / "logs"
    root.mkdir()
    opened: list[TestClient] = []

    def build(**settings: object) -> Api:
        configured = Settings.load(allowed_root=str(root), cache_file=str(tmp_path / "ledger.db"), **settings)
        from contextlib import asynccontextmanager

        from fastapi import FastAPI

        holder: dict[str, LocalActors] = {}
        actors = LocalActors(configured)
        holder["actors"] = actors
        door = Door(configured, actors.handles)

        @asynccontextmanager
        async def lifespan(_: FastAPI):  # type: ignore[no-untyped-def]
            yield
            await holder["actors"].stop()

        door.api.router.lifespan_context = lifespan
        app = TracedDoor(door) if configured.traces_url else door
        client = TestClient(app, raise_server_exceptions=False, client=("192.0.2.1", 50000))
        client.__enter__()
        opened.append(client)
        return Api(client, root, door)

    yield build
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def api(open_api: Callable[..., Api]) -> Api:
    """The API with default settings."""
    return open_api()
