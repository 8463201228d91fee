"""A client that never stops while the service under it changes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.test_serve_configs import write

DOCUMENTED = {"POST 200", "GET 200", "POST 503", "GET 503"}


class Load(threading.Thread):
    """Posts new logs and asks for them on one kept connection until told to stop; counts what was answered and how.

    Logs get the numbers from ``first`` on. A 503 without Retry-After is counted by that, as no documented answer.
    """

    def __init__(self, url: str, place: Path, first: int = 1000) -> None:
        super().__init__(daemon=True)
        self._url, self._place, self._number = url, place, first
        self.acknowledged: dict[str, str] = {}
        self.outcomes: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.stopped = threading.Event()

    def run(self) -> None:
        """Ask until stopped."""
        with httpx.Client(base_url=self._url, timeout=40) as client:
            while not self.stopped.is_set():
                self._number += 1
                log = write(self._place, self._number)
                self._count(lambda log=log: client.post("/logs", json={"log_path": log, "analysis_intent": "terminal"}), "POST")
                reply = self._count(lambda log=log: client.get("/logs", params={"log_path": log}), "GET")
                if reply is not None and reply.status_code == 200 and reply.json()["status"] == "completed":
                    self.acknowledged[log] = reply.json()["result"]["result_id"]
                time.sleep(0.02)

    def end(self) -> None:
        """Stop and wait for the request under way."""
        self.stopped.set()
        self.join(60)

    def _count(self, request: Callable[[], httpx.Response], kind: str) -> httpx.Response | None:
        started = time.monotonic()
        try:
            reply = request()
        except httpx.HTTPError as exc:
            self.outcomes[f"{kind} {exc!r:.120}"] += 1
            return None
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        unexplained = " without Retry-After" if reply.status_code == 503 and "retry-after" not in reply.headers else ""
        self.outcomes[f"{kind} {reply.status_code}{unexplained}"] += 1
        return reply
