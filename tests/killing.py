"""Runs ``tests.delivering`` and ends it without warning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


class Delivering:
    """One run of the program. ``acked`` is how many answers it said are durable, ``owed`` how many deliveries it said are left."""

    def __init__(self, place: Path, first: int, last: int, **settings: object) -> None:
        self.acked = first
        self.owed: int | None = None
        pairs = [f"{name}={value}" for name, value in settings.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.delivering", str(place), str(first), str(last), *pairs],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def wait(self, reached: object, timeout_s: float) -> None:
        """Wait until ``reached()``, by watching the program's words."""
        deadline = time.monotonic() + timeout_s
        while not reached():  # type: ignore[operator]
            assert self._process.poll() is None, self.errors[-3000:]
            assert time.monotonic() < deadline, f"acked {self.acked}, owed {self.owed}; {self.errors[-3000:]}"
            time.sleep(0.005)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, number = line.partition(" ")
            if word == "ack":
                self.acked = int(number)
            elif word == "owed":
                self.owed = int(number)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.errors = (self.errors + line)[-20_000:]
