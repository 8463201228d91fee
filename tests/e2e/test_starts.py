"""A start that is broken off or fails: it ends, and HAProxy with it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import RayError

from attr_actors.actors import cluster
from attr_actors.errors import Unavailable
from serve_app.launch import _end
from tests.e2e.conftest import launch_service, processes_below
from tests.ledgers import settings

END_S = 30
NO_LEDGER = {"NVRX_ATTRSVC_LEDGER_RESOURCE": "on-no-node"}
"""The ledger waits for a node that never comes, and each try of the start takes a minute."""


def command_of(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


def haproxies_of(place: Path) -> list[int]:
    """Return the HAProxies of one service, wherever they hang: their configuration is in its directory."""
    processes = [int(found.name) for found in Path("/proc").glob("[0-9]*")]
    return [p for p in processes if "haproxy" in (command := command_of(p)).partition("\0")[0] and str(place) in command]


def ray_starts(pid: int, place: Path) -> bool:
    return any("gcs_server" in command_of(process) for process in processes_below(pid, b""))


def haproxy_runs(pid: int, place: Path) -> bool:
    return bool(haproxies_of(place))


def ledger_is_waited_for(pid: int, place: Path) -> bool:
    return bool(processes_below(pid, b"ray::ServeReplica"))


@pytest.mark.parametrize(
    ("more", "moment"), [({}, ray_starts), ({}, haproxy_runs), (NO_LEDGER, haproxy_runs), (NO_LEDGER, ledger_is_waited_for)]
)
def test_sigterm_ends_a_start_at_any_moment_and_haproxy_with_it(
    tmp_path: Path, more: dict[str, str], moment: Callable[[int, Path], bool]
) -> None:
    service = launch_service(tmp_path, RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=str(tmp_path / "haproxy.cfg"), **more)
    try:
        deadline = time.monotonic() + 60
        while not moment(service.process.pid, tmp_path):
            assert service.process.poll() is None, (tmp_path / "service.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(END_S)
        assert haproxies_of(tmp_path) == []
    finally:
        service.client.close()
        service.process.kill()
        for process in haproxies_of(tmp_path):
            os.kill(process, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of Ray Serve, when it is imported.
@pytest.mark.parametrize("fault", [Unavailable("the ledger is restarting"), RayError("no Ray"), TimeoutError(), KeyboardInterrupt()])
def test_serve_and_so_haproxy_is_ended_also_where_application_and_actors_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    from ray import serve

    ended: list[str] = []

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(serve, "delete", fail)
    monkeypatch.setattr(cluster, "stop_actors", fail)
    monkeypatch.setattr(serve, "shutdown", lambda: ended.append("Serve"))
    with contextlib.suppress(KeyboardInterrupt):
        _end("attr-actors", settings(tmp_path))
    assert ended == ["Serve"]
