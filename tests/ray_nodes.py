"""A Ray cluster of several nodes on one machine, started as an operator does: ``ray start`` and ``serve deploy``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent
REPO = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RayNodes:
    """Nodes by name, each a process group of its own. Nothing outside them is touched."""

    def __init__(self, place: Path) -> None:
        from serve_app.ray_environment import prepare_environment

        before = dict(os.environ)
        prepare_environment()
        self.environment = dict(os.environ) | {"PYTHONPATH": str(REPO), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1"}
        os.environ.clear()
        os.environ.update(before)
        # Ray's socket paths have at most 107 bytes, so its directory is a short one.
        self._temp = Path("/tmp") / f"rn-{os.getpid()}-{free_port()}"
        self._place = place
        self._port, self._dashboard = free_port(), free_port()
        self.environment["RAY_DASHBOARD_ADDRESS"] = f"http://127.0.0.1:{self._dashboard}"
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start_head(self, *options: str) -> None:
        head = ["--head", f"--port={self._port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard}"]
        self._start("head", *head, f"--ray-client-server-port={free_port()}", f"--temp-dir={self._temp}", *options)
        self._wait(lambda: self._ready("/api/version"), "the head")

    def start_node(self, name: str, *options: str) -> None:
        self._start(name, f"--address=127.0.0.1:{self._port}", *options)

    def _start(self, name: str, *options: str) -> None:
        log = open(self._place / f"{name}.log", "wb")  # noqa: SIM115 - the process keeps it
        ports = [f"--dashboard-agent-listen-port={free_port()}", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block"]
        command = [str(BIN / "ray"), "start", *options, *ports]
        self.nodes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=self._place, start_new_session=True)
        log.close()

    def deploy(self, config: dict[str, Any]) -> None:
        """Deploy a Serve config and wait until it runs."""
        path = self._place / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [str(BIN / "serve"), "deploy", str(path)], env=self.environment, cwd=self._place, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _ready(self, path: str) -> bool:
        import urllib.request

        headers = {"Authorization": f"Bearer {self.environment.get('RAY_AUTH_TOKEN', '')}"}
        request = urllib.request.Request(self.environment["RAY_DASHBOARD_ADDRESS"] + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except OSError:
            return False

    def _wait(self, accept: Any, what: str, limit_s: float = 90) -> None:
        deadline = time.monotonic() + limit_s
        while not accept():
            assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}: {self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-2000:]}" for p in sorted(self._place.glob("*.log")))

    def serve_status(self) -> str:
        """Return what `serve status` and the logs of the starts say, for the message of a failed test."""
        done = subprocess.run([str(BIN / "serve"), "status"], env=self.environment, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr)[-4000:] + self.logs()

    def descendants(self, name: str) -> list[int]:
        """Return the processes of a node, found by their parents: Ray's workers leave the process group."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.parent.name)] = int(fields[1])
        found, queue = [], [self.nodes[name].pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += [child for child, parent in parents.items() if parent == pid]
        return found

    def raylets(self, name: str) -> list[int]:
        """Return the process of a node's raylet, if it runs."""
        return [p for p in self.descendants(name) if Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/raylet")]

    def kill_node(self, name: str, spare: frozenset[int] = frozenset()) -> None:
        """End a node as a power cut does, except the processes to spare."""
        for pid in self.descendants(name):
            if pid not in spare:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.nodes.pop(name).wait(10)

    def stop(self) -> None:
        """End all nodes, and HAProxy, which outlives them."""
        for name in list(self.nodes):
            self.kill_node(name)
        marker = self.environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"].encode()
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if marker in entry.read_bytes():
                    os.kill(int(entry.parent.name), signal.SIGKILL)
            except OSError:
                continue
        subprocess.run(["rm", "-rf", str(self._temp)], check=False)
