"""A small HTTP server that answers like the attribution service, for tests of its clients."""

from __future__ import annotations

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class AttributionTwin:
    """Remembers requests and answers them; ``next_replies`` are (status, headers, body) to send first, instead."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.gets: list[str] = []
        self.authorizations: set[str | None] = set()
        self.next_replies: deque[tuple[int, dict[str, str], Any]] = deque()
        self.missing: set[str] = set()
        twin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self._instead():
                    twin.posts.append(body)
                    reply = {"submitted": True, "normalized_path": body["log_path"], "mode": "single", "logs_dir": None}
                    self._send(200, {}, reply | {"sched_restarts": 0, "files_analyzed": 0})

            def do_GET(self) -> None:
                path = parse_qs(urlsplit(self.path).query)["log_path"][0]
                if self._instead():
                    return
                twin.gets.append(path)
                if path in twin.missing:
                    return self._send(404, {}, {"error_code": "not_found", "message": f"log file not found: '{path}'", "details": None})
                self._send(200, {}, answer(path))

            def _instead(self) -> bool:
                twin.authorizations.add(self.headers.get("Authorization"))
                if not twin.next_replies:
                    return False
                self._send(*twin.next_replies.popleft())
                return True

            def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
                payload = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(payload)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def terminal(self) -> list[str]:
        """Return the job ids that were announced as ended."""
        return [post["job_id"] for post in self.posts if post["analysis_intent"] == "terminal"]


def answer(path: str) -> dict[str, Any]:
    """Return a complete reply of GET /logs in single mode."""
    text = "STOP - DONT RESTART IMMEDIATE\nwrong config\n\nAttribution: Primary issues: [config], Secondary issues: []\n\nfalse"
    return {
        "result": {"module": "log_analyzer", "state": "complete", "result_id": "0" * 64, "result": [[text, {}]], "error": None},
        "status": "completed",
        "mode": "single",
        "recommendation": {"action": "STOP", "source": "rules", "reason": "wrong config"},
        "attribution": {
            "action": "STOP",
            "category": "config",
            "rule": "first_error_is_the_root",
            "root_cause": f"wrong config in {path}",
            "root_lines": [{"line_number": 7, "byte_offset": 99, "text": "KeyError: 'lr'"}],
        },
    }
