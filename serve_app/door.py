"""What every request passes first: who asks, how often, and whether the answer is at hand. Plain ASGI, in front of FastAPI.

Hold in mind: this runs once per request on the replica's only loop, so it works on bytes and builds no request object.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import time
from typing import Any, NamedTuple, cast

from attr_actors import tracing
from attr_actors.core.access import ANYONE, Caller, Scope
from attr_actors.errors import AttrError, BodyTooLarge, Overloaded
from attr_actors.handles import Actors
from attr_actors.settings import Settings
from serve_app.allowances import Account, Allowances
from serve_app.answers import AnswerCache, Key
from serve_app.api import build_api
from serve_app.asgi import Asgi, AsgiScope, Headers, Message, Receive, Send, announced_bytes, check_body, send_error, send_reply
from serve_app.clients import client_address, parse_networks
from serve_app.figures import FigureBook
from serve_app.keys import Keys
from serve_app.overview import Overview
from serve_app.service import AttributionService
from serve_app.submit_door import SubmitDoor

logger = logging.getLogger("attr_actors.requests")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

TICK_S = 1.0
"""How often the keys are looked at and the limiter is compared with."""


class Rule(NamedTuple):
    """What a route asks of its caller. ``name`` stands in the figures."""

    name: str
    scope: Scope | None
    rate: str | None = None
    confined: bool = True
    """False: it shows what belongs to everybody, so that a key with a root of its own may not use it."""


OTHER = Rule("other", Scope.READ)
"""An unknown route or method says so only to whom may read."""
SUBMIT = Rule("submit", Scope.SUBMIT, "submit")
RESULT = Rule("result", Scope.READ, "analyze")
HEALTH = Rule("healthz", None)
DOCS = Rule("docs", None)
RULES = {
    ("POST", "/logs"): SUBMIT,
    ("GET", "/logs"): RESULT,
    ("GET", "/print"): Rule("preview", Scope.READ, "preview"),
    ("GET", "/jobs"): Rule("jobs", Scope.READ, confined=False),
    ("GET", "/inflight"): Rule("inflight", Scope.READ, confined=False),
    ("GET", "/stats"): Rule("stats", Scope.READ, confined=False),
    ("GET", "/metrics"): Rule("metrics", Scope.READ, confined=False),
    ("GET", "/healthz"): HEALTH,
    ("GET", "/"): Rule("root", None),
    ("GET", "/docs"): DOCS,
    ("GET", "/redoc"): DOCS,
    ("GET", "/openapi.json"): DOCS,
    ("POST", "/mcp"): Rule("mcp", Scope.READ, "analyze"),
}


class Door:
    """The ASGI application that a replica serves."""

    def __init__(self, settings: Settings, actors: Actors) -> None:
        self._service = AttributionService(settings, actors)
        self._figures = FigureBook(actors.meter)
        self._overview = Overview(actors, self._figures)
        self.counters = self._overview.counters
        self.api = build_api(settings, self._service, self._overview)
        self._app = cast(Asgi, self.api)
        self._submit = SubmitDoor(self._service, self._app)
        self._keys = Keys(settings.api_keys_file)
        self._trusted = parse_networks(settings.trusted_proxies)
        self._allowances = Allowances(settings, actors.limiter, self._figures.counts)
        self._answers = AnswerCache(settings)
        self._figures.gauge(self._answers.gauges)
        self._figures.gauge(self._service.gauges)
        self._overview.watch(self._keys.issues)
        self._overview.watch(self._service.issues)
        self._waiting_max = settings.waiting_requests_max
        self._waiting = 0
        self._name, self._numbers = secrets.token_hex(6).encode(), itertools.count(1)
        self._ticking: asyncio.Task[None] | None = None

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick_for_ever())
        started = time.perf_counter()
        status = 499  # The client went away before anything was sent.
        rule = RULES.get((scope["method"], scope["path"]), OTHER)

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._serve(rule, scope, receive, counting)
        finally:
            self._figures.count_request(rule.name, status, time.perf_counter() - started)

    async def _serve(self, rule: Rule, scope: AsgiScope, receive: Receive, send: Send) -> None:
        headers: Headers = []
        try:
            caller = self._admit(scope, rule)
            account = await self._charge(scope, rule, caller, headers)
            if scope["method"] != "GET":
                check_body(announced_bytes(scope))
        except AttrError as exc:
            await send_error(send, exc, headers)
            return
        if rule is HEALTH and not scope["query_string"] and (body := self._overview.recent()):
            await send_reply(send, 200, [], body)
            return
        key = (caller.root, scope["query_string"])
        if rule is RESULT and await self._answer_from_memory(key, account, headers, send):
            return
        if self._waiting >= self._waiting_max and rule.rate:
            await send_error(send, Overloaded(f"{self._waiting_max} requests wait here for an answer; try again later", 5.0), headers)
            return
        self._waiting += 1
        try:
            with self._answers.making(key) if rule is RESULT else contextlib.nullcontext():
                await self._pass_on(rule, scope, receive, send, caller, account, headers)
        except BodyTooLarge as exc:
            await send_error(send, exc, headers)
        finally:
            self._waiting -= 1

    def _admit(self, scope: AsgiScope, rule: Rule) -> Caller:
        """Identify the caller of a route that is not open. Raises Unauthorized or Forbidden."""
        if rule.scope is None:
            return ANYONE
        caller = self._keys.identify(_token(scope))
        caller.require(rule.scope)
        if caller.root and not rule.confined:
            caller.require(Scope.ADMIN)
        return caller

    async def _charge(self, scope: AsgiScope, rule: Rule, caller: Caller, headers: Headers) -> Account | None:
        """Count the request against its client's limit. Raises RateLimited."""
        if rule.rate is None:
            return None
        client = f"key {caller.name}" if caller is not ANYONE else self._address(scope)
        account = self._allowances.account(rule.rate, client)
        try:
            await self._allowances.charge(account)
        finally:
            headers += account.headers(time.time())
        return account

    def _address(self, scope: AsgiScope) -> str:
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        peer = scope.get("client")
        return client_address(peer[0] if peer else "", forwarded, self._trusted)

    async def _answer_from_memory(self, key: Key, account: Account | None, headers: Headers, send: Send) -> bool:
        """Answer a GET of a kept reply that still stands, or of one that another request is just having made."""
        answer = self._answers.find(key)
        if answer is None and (answer := await self._answers.join(key)) and account:
            self._allowances.refund(account)  # The one who asked first paid for it.
        if answer is None:
            return False
        if self._answers.needs_stat(answer) and not await self._service.still_stands(answer.basis):
            self._answers.drop(key)
            return False
        self._figures.counts["cache.replica_hits"] += 1
        await send_reply(send, 200, headers, answer.body)
        return True

    async def _pass_on(
        self, rule: Rule, scope: AsgiScope, receive: Receive, send: Send, caller: Caller, account: Account | None, headers: Headers
    ) -> None:
        """Let FastAPI answer, and keep the reply if its route says what it stands on."""
        state = scope["state"] = {**scope.get("state", {}), "caller": caller}
        key = (caller.root, scope["query_string"])

        started, status = time.perf_counter(), 499
        request_id = self._request_id(scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers]
            elif message["type"] == "http.response.body":
                self._look_at(state, key, message, account)
            await send(message)

        try:
            await (self._submit if rule is SUBMIT else self._app)(scope, receive, sending)
        finally:
            if rule.rate and logger.isEnabledFor(logging.INFO):
                about = {name: state[name] for name in ("log_path", "job") if state.get(name)}
                took_ms = round((time.perf_counter() - started) * 1000, 1)
                logger.info(
                    "%s %d",
                    rule.name,
                    status,
                    extra={"request_id": request_id.decode(), "caller": caller.name, "duration_ms": took_ms, **about},
                )

    def _request_id(self, scope: AsgiScope) -> bytes:
        """Return the name of the request in the log: the client's or Serve's, which Serve sends back, if it is harmless."""
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        return given if REQUEST_ID.fullmatch(given) else b"%s-%d" % (self._name, next(self._numbers))

    def _look_at(self, state: dict[str, Any], key: Key, message: Message, account: Account | None) -> None:
        if account and state.get("joined"):  # The flight was paid for by the one who started it.
            self._allowances.refund(account)
        if state.get("basis") and not message.get("more_body"):
            self._answers.keep(key, bytes(message.get("body", b"")), state["basis"])

    async def tick(self) -> None:
        """Take in what changed elsewhere, and tell what happened here."""
        self._overview.refresh()
        self._service.root.look()
        await self._keys.reload()
        await self._allowances.compare()
        await self._figures.report()

    async def _tick_for_ever(self) -> None:
        tracing.leave()  # The first request starts this; it is for all.
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()


def _token(scope: AsgiScope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].strip().decode("latin-1"))
        if name == b"x-api-key":
            return str(value.strip().decode("latin-1"))
    return None
