"""A loopback chat endpoint over real HTTP that answers by script: well, or with one fault after another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "root_cause": "The disk is full.",
    "citations": [{"line": 12, "quote": "No space left on device"}],
    "category": "storage",
    "action": "STOP",
    "nodes": [],
}


@dataclass
class Step:
    """One scripted answer: a status with a body, or a behaviour of the socket."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0.0
    hang: bool = False
    drop: bool = False


def completion(content: str | None, finish: str = "stop", **message: Any) -> Step:
    """A chat completion with this text."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    usage = {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Step(200, json.dumps(body).encode())


def answer(**changes: Any) -> Step:
    """A well-formed answer."""
    return completion(json.dumps(GOOD | changes))


def refusal(status: int, message: str = "", **headers: str) -> Step:
    """An error answer."""
    body = {"error": {"message": message, "code": status}}
    return Step(status, json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in headers.items()})


Script = Callable[[dict[str, Any], int], Step]


class ModelServer:
    """Answers request number n by ``script(request, n)`` and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.raw: list[bytes] = []
        self.under_way = 0
        self.under_way_max = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def take(self, raw: bytes, key: str) -> Step:
        with self._lock:
            number = len(self.requests)
            self.raw.append(raw)
            self.requests.append(json.loads(raw))
            self.keys.append(key)
            self.under_way += 1
            self.under_way_max = max(self.under_way_max, self.under_way)
        return self.script(self.requests[number], number)

    def done(self) -> None:
        with self._lock:
            self.under_way -= 1


def _handler(model: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            step = model.take(raw, self.headers.get("authorization", ""))
            try:
                self._play(step)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                model.done()

        def _play(self, step: Step) -> None:
            if step.hang:
                model.released.wait(30)
            if step.hang or step.drop:
                self.close_connection = True
                return
            self.send_response(step.status)
            headers = {"content-type": "application/json", "content-length": str(len(step.body))} | step.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not step.drip_s:
                self.wfile.write(step.body)
            for i in range(len(step.body) if step.drip_s else 0):
                self.wfile.write(step.body[i : i + 1])
                self.wfile.flush()
                if model.released.wait(step.drip_s):
                    return

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(script: Script) -> Iterator[ModelServer]:
    """Run a scripted endpoint for the length of a test."""
    server = ModelServer(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()
