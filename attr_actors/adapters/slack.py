"""Slack as a sink: one message per job and cause, later ones in its thread.

Hold in mind: Slack has no idempotent post. A request whose reply was lost is sent again; nothing else ever is, so the
client's own retries are off. The token goes into a header and nowhere else.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from attr_actors.adapters.reasons import reason_of
from attr_actors.core.backoff import parse_retry_after
from attr_actors.core.rendering import one_line, render_slack_blocks, render_slack_text
from attr_actors.errors import SinkError
from attr_actors.models import Action, Delivery, Outcome
from attr_actors.settings import Settings

REFUSED = {
    "msg_too_long",
    "no_text",
    "restricted_action",
    "invalid_arguments",
    "invalid_blocks",
    "invalid_blocks_format",
    "too_many_attachments",
}
"""Errors that blame the message. Those of token, channel or Slack itself pass once somebody mends them."""
LOOK_AT = {
    **dict.fromkeys(
        ("invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "missing_scope"),
        "the token is refused, see SLACK_BOT_TOKEN",
    ),
    **dict.fromkeys(("channel_not_found", "not_in_channel", "is_archived"), "see SLACK_CHANNEL"),
}
"""What an operator can do about an error."""
USERS_MAX = 10_000
"""Most users remembered."""
UNKNOWN_USER_S = 3600.0
"""How long a user that Slack does not know is not looked up again, s."""


class SlackSink:
    """Posts STOP answers to one channel."""

    name = "slack"
    batch_max = 1
    """One at a time, so that the receipt of a message is known before the next of its thread."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare the client."""
        token = settings.slack_bot_token.get_secret_value() if settings.slack_bot_token else ""
        self._client = AsyncWebClient(
            token, base_url=settings.slack_base_url, timeout=max(1, round(settings.sink_timeout_s)), retry_handlers=[]
        )
        self._place = urlsplit(settings.slack_base_url).netloc.rpartition("@")[2]
        self._channel = settings.slack_channel
        self._domain = settings.slack_email_domain
        self._cluster = settings.cluster_name
        self._clock = clock
        self.counts: dict[str, float] = {"slack.user_lookups": 0, "slack.user_not_found": 0}
        self._users: OrderedDict[str, tuple[str | None, float]] = OrderedDict()

    async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        """Post each message. Raises SinkError if Slack cannot take it now."""
        return tuple([await self._post(delivery) for delivery in deliveries])

    async def close(self) -> None:
        """Do nothing: every request has a connection of its own."""

    async def _post(self, delivery: Delivery) -> Outcome:
        entry = delivery.entry
        if entry.attribution.action is not Action.STOP:
            return Outcome(delivery_id=delivery.delivery_id, state="done")
        owner = await self._owner(entry.requester.user)
        message: dict[str, Any] = {
            "channel": self._channel,
            "text": render_slack_text(entry, owner),
            "blocks": render_slack_blocks(entry, owner, self._cluster),
            "unfurl_links": False,
            "unfurl_media": False,
        }
        if delivery.receipt:
            message["thread_ts"] = delivery.receipt
        reply = await self._call("chat.postMessage", json=message)
        if reply.get("error") in REFUSED:
            reply = await self._call("chat.postMessage", json={k: v for k, v in message.items() if k != "blocks"})
        if reply.get("error") in REFUSED:
            return Outcome(delivery_id=delivery.delivery_id, state="parked", reason=reply["error"])
        _raise_unless_ok(reply)
        return Outcome(delivery_id=delivery.delivery_id, state="done", receipt=delivery.receipt or _text(reply.get("ts")))

    async def _owner(self, user: str) -> str | None:
        """Return the Slack id of a user, or None; the answer, also None, is remembered."""
        if not self._domain or user == "unknown":
            return None
        known = self._users.get(user)
        if known is None or self._clock() >= known[1]:
            known = await self._look_up(user)
            self._users[user] = known
        self._users.move_to_end(user)
        if len(self._users) > USERS_MAX:
            self._users.popitem(last=False)
        return known[0]

    async def _look_up(self, user: str) -> tuple[str | None, float]:
        self.counts["slack.user_lookups"] += 1
        reply = await self._call("users.lookupByEmail", data={"email": f"{user}@{self._domain}"})
        found = reply.get("user")
        if reply.get("ok") is True and isinstance(found, dict) and isinstance(found.get("id"), str):
            return found["id"], float("inf")
        # Whatever is wrong with the lookup (unknown user, missing scope), the message matters more than the mention.
        self.counts["slack.user_not_found"] += 1
        return None, self._clock() + UNKNOWN_USER_S

    async def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Return Slack's reply, ok or not. Raises SinkError if there is none, or if it says to come back later."""
        try:
            reply = await self._client.api_call(method, **arguments)
            body: Any = reply.data
        except SlackApiError as exc:
            status, headers = getattr(exc.response, "status_code", 0), getattr(exc.response, "headers", {})
            body = getattr(exc.response, "data", None)
            if status == 429 or status >= 500:
                raise SinkError(f"{self._place}: {method} answered {status}", _retry_after_s(headers)) from None
        # The client ends with an AttributeError where a reply is text or a list instead of Slack's object.
        except (SlackClientError, aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError) as exc:
            raise SinkError(f"{self._place}: {reason_of(exc)}") from None
        if not isinstance(body, dict) or "ok" not in body:
            raise SinkError(f"{self._place}: {method} got a reply that is not Slack's")
        return body


def _raise_unless_ok(reply: dict[str, Any]) -> None:
    if reply.get("ok") is not True:
        error = one_line(_text(reply.get("error")) or "unknown error", 100)
        raise SinkError(f"{error}; {LOOK_AT[error]}" if error in LOOK_AT else error)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _retry_after_s(headers: Any) -> float | None:
    return parse_retry_after({str(name).lower(): value for name, value in dict(headers).items()}.get("retry-after"))
