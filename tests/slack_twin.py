"""A small Slack on loopback: postMessage as JSON with a Bearer token, lookupByEmail as a form, ok:false errors, 429."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from tests.loopback import Loopback, Reply, Request

TOKEN = "xoxb-a-secret-token"
CHANNEL = "C0ALERTS"


class SlackTwin(Loopback):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.users = {"ada@example.com": "U0ADA"}
        self.lookups: list[str] = []
        self.errors: list[str] = []
        """``ok: false`` errors of the next posts, in order."""

    @property
    def base_url(self) -> str:
        return f"{self.url}/api/"

    def answer(self, request: Request) -> Reply:
        if request.method != "POST" or not request.path.startswith("/api/"):
            return Reply(404, b"not found", {}, "text/html")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(200, {"ok": False, "error": "invalid_auth"})
        method = request.path.removeprefix("/api/")
        if method == "users.lookupByEmail":
            return self._look_up(request)
        if method == "chat.postMessage":
            return self._post(request)
        return Reply(200, {"ok": False, "error": "unknown_method"})

    def _look_up(self, request: Request) -> Reply:
        if not request.headers["content-type"].startswith("application/x-www-form-urlencoded"):
            return Reply(200, {"ok": False, "error": "invalid_arguments"})
        email = parse_qs(request.body.decode())["email"][0]
        self.lookups.append(email)
        if email not in self.users:
            return Reply(200, {"ok": False, "error": "users_not_found"})
        return Reply(200, {"ok": True, "user": {"id": self.users[email], "profile": {"email": email}}})

    def _post(self, request: Request) -> Reply:
        if not request.headers["content-type"].startswith("application/json"):
            return Reply(200, {"ok": False, "error": "invalid_post_type"})
        if self.errors:
            return Reply(200, {"ok": False, "error": self.errors.pop(0)})
        message = json.loads(request.body)
        if message.get("channel") != CHANNEL:
            return Reply(200, {"ok": False, "error": "channel_not_found"})
        stamp = f"1700000000.{len(self.messages):06d}"
        self.messages.append({**message, "ts": stamp})
        return Reply(200, {"ok": True, "channel": CHANNEL, "ts": stamp, "message": message})
