"""A webhook as a sink: the Elasticsearch record as JSON by HTTP POST, and the example of a sink of one's own.

Headers: ``Idempotency-Key`` is the entry's key (an entry that changed comes again with the same one). With a secret,
``X-Attr-Signature`` is ``sha256=`` and the hex HMAC-SHA256 of ``X-Attr-Timestamp``, a dot and the body.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Mapping

import httpx

from attr_actors.adapters.reasons import reason_of
from attr_actors.core.backoff import parse_retry_after
from attr_actors.core.entries import entry_key
from attr_actors.core.rendering import render_record
from attr_actors.errors import BadSettings, SinkError
from attr_actors.models import Delivery, Outcome
from attr_actors.settings import Settings

TRY_AGAIN = {408, 425, 429}
"""Refusals that may pass; 5xx too. Every other status above 299 parks the delivery."""


class WebhookSink:
    """Posts each record to one URL."""

    name = "webhook"
    batch_max = 16
    """Sent side by side, so that a slow receiver still gets sixteen records per round trip."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the client. Raises BadSettings for an address that is not HTTP."""
        try:
            address = httpx.URL(settings.export_url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise BadSettings("NVRX_ATTRSVC_EXPORT_URL: must be of the form http(s)://host/path")
        self._url = address.copy_with(username="", password="")
        self._place = address.netloc.decode()  # Path and query may be secret.
        self._secret = settings.export_secret.get_secret_value().encode() if settings.export_secret else b""
        self._cluster = settings.cluster_name
        self.counts: Mapping[str, float] = {}
        auth = httpx.BasicAuth(address.username, address.password) if address.username or address.password else None
        self._client = httpx.AsyncClient(timeout=settings.sink_timeout_s, follow_redirects=False, auth=auth)
        # The library's log of requests names whole addresses, and path and query of a webhook are often its secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        """Post the records side by side. Raises SinkError if no one answered."""
        results = await asyncio.gather(*(self._post(delivery) for delivery in deliveries), return_exceptions=True)
        outcomes = []
        for delivery, result in zip(deliveries, results, strict=True):
            if isinstance(result, httpx.HTTPError | httpx.InvalidURL):
                reason = f"{self._place}: {reason_of(result)}"
                outcomes.append(Outcome(delivery_id=delivery.delivery_id, state="retry", reason=reason))
            elif isinstance(result, BaseException):
                raise result
            else:
                outcomes.append(result)
        if all(o.state == "retry" for o in outcomes):
            raise SinkError(outcomes[0].reason, max((o.delay_s or 0.0 for o in outcomes), default=0.0) or None)
        return tuple(outcomes)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _post(self, delivery: Delivery) -> Outcome:
        body = json.dumps(render_record(delivery.entry, self._cluster)).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": entry_key(delivery.entry)}
        if self._secret:
            stamp = str(int(time.time()))
            digest = hmac.new(self._secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
            headers |= {"X-Attr-Timestamp": stamp, "X-Attr-Signature": f"sha256={digest}"}
        reply = await self._client.post(self._url, content=body, headers=headers)
        if reply.status_code < 300:
            return Outcome(delivery_id=delivery.delivery_id, state="done")
        passes = reply.status_code in TRY_AGAIN or reply.status_code >= 500
        reason = f"{self._place}: {reply.status_code}"
        delay = parse_retry_after(reply.headers.get("Retry-After")) if passes else None
        return Outcome(delivery_id=delivery.delivery_id, state="retry" if passes else "parked", reason=reason, delay_s=delay)
