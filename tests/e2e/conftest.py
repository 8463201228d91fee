"""The real service: ``nvrx-attrsvc`` as its own process on a local Ray, asked over HTTP."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

REPO = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


@dataclass
class Service:
    """A running service and the directory that it may read."""

    url: str
    root: Path
    process: subprocess.Popen[str]
    client: httpx.Client

    def write(self, name: str, text: str) -> str:
        """Write a log below the root and return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def get(self, log_path: str, **params: object) -> httpx.Response:
        """GET /logs."""
        return self.client.get("/logs", params={"log_path": log_path, **params})  # type: ignore[dict-item]

    def post(self, log_path: str, **fields: object) -> httpx.Response:
        """POST /logs."""
        return self.client.post("/logs", json={"log_path": log_path, **fields})

    def pids(self) -> dict[str, int]:
        """Return the process id of each actor and of the replica that answers."""
        actors = self.client.get("/stats").json()["actors"]
        return {name.removesuffix(".pid"): int(pid) for name, pid in actors.items() if name.endswith(".pid")}


def launch_service(place: Path, **environment: str) -> Service:
    """Start the command that the README names."""
    root = place / "logs"
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "NVRX_ATTRSVC_ALLOWED_ROOT": str(root),
        "NVRX_ATTRSVC_CACHE_FILE": str(place / "ledger.db"),
        "NVRX_ATTRSVC_PORT": str(port),
        "PYTHONPATH": str(REPO),
        **environment,
    }
    # Whoever may write where the service was started must not get to run code in it.
    (place / "mcp.py").write_text("raise RuntimeError('imported from the working directory')\n")
    with (place / "service.log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-m", "attr_actors.cli"], env=env, stdout=log, stderr=log, text=True, cwd=place)
    url = f"http://127.0.0.1:{port}"
    return Service(url, root, process, httpx.Client(base_url=url, timeout=60))


def start_service(place: Path, **environment: str) -> Service:
    """Start the command that the README names and wait until it serves."""
    service = launch_service(place, **environment)
    deadline = time.monotonic() + START_TIMEOUT_S
    while "serves" not in (place / "service.log").read_text():
        assert service.process.poll() is None, (place / "service.log").read_text()
        assert time.monotonic() < deadline, (place / "service.log").read_text()
        time.sleep(0.1)
    return service


def stop_service(service: Service) -> int:
    """Send SIGTERM, wait for the end, and return the exit code."""
    service.client.close()
    service.process.send_signal(signal.SIGTERM)
    return service.process.wait(STOP_TIMEOUT_S)


def processes_below(pid: int, name: bytes) -> list[int]:
    """Return the processes that a process started, at any remove, and whose command line begins with ``name``."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])

    def is_below(process: int) -> bool:
        while process and process != pid:
            process = parents.get(process, 0)
        return process == pid

    found = []
    for process in filter(is_below, parents):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(name):
                found.append(process)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests of this layer."""
    limits = {"NVRX_ATTRSVC_RATE_LIMIT_ANALYZE": "100000/minute", "NVRX_ATTRSVC_RATE_LIMIT_SUBMIT": "100000/minute"}
    running = start_service(tmp_path_factory.mktemp("service"), **limits)
    yield running
    if running.process.poll() is None:
        stop_service(running)


@pytest.fixture(scope="session")
def slurm(shared_dir: Path) -> Iterator[dict[str, str]]:
    """A private Slurm; the environment that its commands need."""
    missing = [tool for tool in ("slurmctld", "slurmdbd", "munged", "mariadbd") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs a real Slurm with accounting; not installed: {', '.join(missing)}")
    place = f"/tmp/slurm-monitor-test-{os.getpid()}"
    base = 28000 + 4 * (os.getpid() % 500)
    ports = {name: str(base + i) for i, name in enumerate(("P_CTLD", "P_D", "P_DBD", "P_SQL"))}
    environment = os.environ | ports | {"SLURM_DIR": place}
    up = subprocess.run(["bash", shared_dir / "tools/slurm_up.sh"], env=environment, capture_output=True, text=True, timeout=120)
    if up.returncode != 0:
        pytest.skip(f"Slurm does not start here: {(up.stdout + up.stderr)[-300:]}")
    yield environment | {"SLURM_CONF": f"{place}/etc/slurm.conf", "PYTHONPATH": str(REPO)}
    subprocess.run(["bash", shared_dir / "tools/slurm_up.sh", "down"], env=environment, capture_output=True, timeout=60)
    shutil.rmtree(place, ignore_errors=True)
