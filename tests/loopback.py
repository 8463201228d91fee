"""A real HTTP server on loopback, the base of the twins of Elasticsearch, Slack and a webhook's receiver.

``faults`` holds what happens to the next requests, in order: ``status(503)``, ``drop`` (closed before the request is
acted on), ``lose`` (acted on, closed without a reply), ``hang`` (acted on after ``hang_s``), ``garbage``.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = MappingProxyType({})
    content_type: str = "application/json"


class Fault(NamedTuple):
    kind: str
    reply: Reply = Reply()


def status(code: int, body: Any = None, **headers: str) -> Fault:
    return Fault("status", Reply(code, body, {k.replace("_", "-"): v for k, v in headers.items()}))


DROP, LOSE, HANG = Fault("drop"), Fault("lose"), Fault("hang")
GARBAGE = Fault("status", Reply(200, b"\x00<html>not what you want", {}, "application/json"))
HTML = Fault("status", Reply(200, b"<html>proxy login</html>", {}, "text/html"))
TEXT = Fault("status", Reply(200, b"hello", {}, "text/plain"))


class Loopback:
    """Serves ``answer()`` on 127.0.0.1 from a thread; subclasses are the twins."""

    def __init__(self, **standard_headers: str) -> None:
        self.standard_headers = {name.replace("_", "-"): value for name, value in standard_headers.items()}
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.down = False
        self.hang_s = 1.0
        self.released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        twin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                twin._handle(self, Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, *args: object) -> None:
                pass

        for verb in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler._serve)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, address: Any) -> None:
                pass  # A client that went away is what some tests are about.

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        self.requests.append(request)
        fault = self.faults.popleft() if self.faults else None
        if self.down or (fault and fault.kind == "drop"):
            handler.close_connection = True
            return
        if fault and fault.kind == "status":
            return self._send(handler, fault.reply)
        if fault and fault.kind == "hang":
            self.released.wait(self.hang_s)
        reply = self.answer(request)
        if fault and fault.kind == "lose":
            handler.close_connection = True
            return None
        return self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps({} if reply.body is None else reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": reply.content_type, **self.standard_headers, **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
