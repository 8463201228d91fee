"""The monitor's own HTTP endpoint: /healthz, /stats, /jobs, as the predecessor's monitor has them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attr_actors.core.job_watch import Watched
from attr_actors.errors import BadSettings
from attr_actors.monitor import Monitor

LOOKS_MISSED_MAX = 3
"""A monitor that has not finished a look for this many intervals (plus a minute of waiting) is reported as failing."""

JOBS_SHOWN_MAX = 1000


def health(monitor: Monitor, interval_s: float, now: float) -> dict[str, Any]:
    """Return status and issues; ``fail`` when the looks stopped."""
    issues = list(monitor.issues)
    if monitor.looks and now - monitor.looked_at > LOOKS_MISSED_MAX * interval_s + 60:
        return {"status": "fail", "issues": [*issues, f"the last look ended {now - monitor.looked_at:.0f} s ago"]}
    return {"status": "degraded" if issues else "ok", "issues": issues}


def stats(monitor: Monitor) -> dict[str, Any]:
    """Return the counters since the memory was made, and what is owed now."""
    watch = monitor.watch
    return {
        "looks": monitor.looks,
        "last_look_at": monitor.looked_at,
        "cursor": watch.cursor,
        "remembered": len(watch.jobs),
        "to_announce": len(watch.to_announce()),
        "to_answer": len(watch.to_answer()),
        **watch.counts,
    }


def jobs(monitor: Monitor, limit: int) -> dict[str, Any]:
    """Return the newest remembered jobs."""
    rows: list[Watched] = sorted(monitor.watch.jobs.values(), key=lambda job: job.raw_id, reverse=True)[:limit]
    return {"total": len(monitor.watch.jobs), "returned": len(rows), "jobs": [row.model_dump(mode="json") for row in rows]}


@contextlib.contextmanager
def status_endpoint(monitor: Monitor, host: str, port: int, interval_s: float) -> Iterator[int]:
    """Serve the status from a thread until the block ends; give the port. Raises BadSettings if it cannot listen."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # A client that sends nothing does not hold its thread.

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/healthz":
                body = health(monitor, interval_s, time.time())
                return self._reply(503 if body["status"] == "fail" else 200, body)
            if url.path == "/stats":
                return self._reply(200, stats(monitor))
            if url.path == "/jobs":
                wanted = parse_qs(url.query).get("limit", ["100"])[0]
                return self._reply(200, jobs(monitor, min(int(wanted) if wanted.isdigit() else 100, JOBS_SHOWN_MAX)))
            return self._reply(404, {"error_code": "not_found", "message": "not found: ask /healthz, /stats or /jobs", "details": None})

        def _reply(self, status: int, body: dict[str, Any]) -> None:
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the monitor's output for its answers."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as exc:
        raise BadSettings(f"cannot listen on {host}:{port}: {exc.strerror}; set NVRX_SMONSVC_PORT or NVRX_SMONSVC_HOST") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="status", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
