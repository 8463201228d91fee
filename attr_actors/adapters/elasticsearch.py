"""Elasticsearch as a sink: one document per entry, written by bulk requests over the official client.

Hold in mind: a document's id is the entry's key and its version the time of the analysis, so a repeat overwrites and a
late request cannot undo a newer one. Errors name host, port, status and type, never the whole URL (it may hold a password).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from elastic_transport import TransportError
from elasticsearch import ApiError, AsyncElasticsearch

from attr_actors.adapters.reasons import reason_of
from attr_actors.core.entries import entry_key
from attr_actors.core.rendering import one_line, render_record
from attr_actors.errors import BadSettings, SinkError
from attr_actors.models import Delivery, Outcome
from attr_actors.settings import Settings

REFUSED = {"mapper_parsing_exception", "document_parsing_exception", "strict_dynamic_mapping_exception", "illegal_argument_exception"}
"""Error types that blame the document; every other one may pass (a full disk, a closed index, a missing right)."""
QUICK_RETRIES = 2
"""Three quick tries in all, as the predecessor made; then the outbox waits."""

KEYWORD = {"type": "keyword", "ignore_above": 8191}
SEARCHABLE = {**KEYWORD, "fields": {"text": {"type": "text"}}}
MAPPINGS: dict[str, Any] = {
    "dynamic_templates": [
        {"texts": {"match": "s_*", "mapping": KEYWORD}},
        {"wholes": {"match": "l_*", "mapping": {"type": "long"}}},
        {"reals": {"match": "d_*", "mapping": {"type": "double"}}},
        {"instants": {"match": "ts_*", "mapping": {"type": "date", "format": "epoch_millis"}}},
    ],
    "properties": {
        **dict.fromkeys(("s_attribution", "s_auto_resume_explanation", "s_root_line"), SEARCHABLE),
        # These can be empty, and an empty value has no type that Elasticsearch could go by.
        "s_nodes": KEYWORD,
        "l_root_line_number": {"type": "long"},
    },
}


class ElasticsearchSink:
    """Writes records to one index of an Elasticsearch 8.x or 9.x cluster."""

    name = "elasticsearch"
    batch_max = 500

    def __init__(self, settings: Settings) -> None:
        """Prepare the client. Raises BadSettings for an address or a certificate file that cannot be used."""
        self._index = settings.dataflow_index
        self._cluster = settings.cluster_name
        self._place, self._credentials, self._client = _connect(settings)
        self._has_template = False
        self.counts: Mapping[str, float] = {}

    async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        """Index the records in one bulk request. Raises SinkError if the request as a whole failed."""
        await self._install_template()
        return await self._bulk(deliveries)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _install_template(self) -> None:
        """Give new indices of this name the right field types, once; without the right to do so the types are guessed."""
        if self._has_template:
            return
        name = "attr-actors-" + re.sub(r"[^a-z0-9._-]+", "-", self._index.lower())
        try:
            await self._client.indices.put_index_template(
                name=name, index_patterns=[self._index], priority=200, template={"mappings": MAPPINGS}
            )
        except (ApiError, TransportError) as exc:
            if getattr(exc, "status_code", None) != 403:
                raise self._fault(exc) from None
        self._has_template = True

    async def _bulk(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        operations: list[dict[str, Any]] = []
        for delivery in deliveries:
            entry = delivery.entry
            version = {"version": int(entry.analysed_at * 1000), "version_type": "external_gte"}
            operations += ({"index": {"_id": entry_key(entry), **version}}, render_record(entry, self._cluster))
        try:
            reply = await self._client.bulk(index=self._index, operations=operations)
        except (ApiError, TransportError) as exc:
            if getattr(exc, "status_code", None) == 413:
                return await self._halves(deliveries)
            raise self._fault(exc) from None
        return self._outcomes(deliveries, reply.body)

    async def _halves(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        """Send a batch that was too large in two parts; a single record that is too large is parked."""
        if len(deliveries) == 1:
            return (Outcome(delivery_id=deliveries[0].delivery_id, state="parked", reason="413 the record is too large"),)
        middle = len(deliveries) // 2
        return (*await self._bulk(deliveries[:middle]), *await self._bulk(deliveries[middle:]))

    def _fault(self, exc: ApiError | TransportError) -> SinkError:
        if not isinstance(exc, ApiError):
            return SinkError(f"{self._place}: {reason_of(exc)}")
        kind = one_line(str(exc.message), 100)
        refused = exc.status_code == 401 or (exc.status_code == 403 and kind == "security_exception")
        hint = f"; the credentials are refused, see {self._credentials}" if refused else ""
        return SinkError(f"{self._place}: {exc.status_code} {kind}{hint}")

    def _outcomes(self, deliveries: tuple[Delivery, ...], body: Any) -> tuple[Outcome, ...]:
        items = body.get("items") if isinstance(body, dict) else None
        if not isinstance(items, list) or len(items) != len(deliveries):
            raise SinkError(f"{self._place}: the reply to a bulk request does not list its items")
        return tuple(_outcome(delivery, item) for delivery, item in zip(deliveries, items, strict=True))


def _connect(settings: Settings) -> tuple[str, str, AsyncElasticsearch]:
    """Return host and port, the variables that the credentials are in, and the client. Raises BadSettings."""
    parts = urlsplit(settings.elasticsearch_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadSettings("NVRX_ATTRSVC_ELASTICSEARCH_URL: must be of the form http(s)://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{parts.port or (443 if parts.scheme == 'https' else 9200)}"
    options: dict[str, Any] = {}
    user, password = settings.elasticsearch_user, settings.elasticsearch_password
    credentials = "NVRX_ATTRSVC_ELASTICSEARCH_USER and NVRX_ATTRSVC_ELASTICSEARCH_PASSWORD"
    if settings.elasticsearch_api_key:
        credentials = "NVRX_ATTRSVC_ELASTICSEARCH_API_KEY"
        options["api_key"] = settings.elasticsearch_api_key.get_secret_value()
    elif user and password:
        options["basic_auth"] = (user, password.get_secret_value())
    elif parts.username:
        credentials = "NVRX_ATTRSVC_ELASTICSEARCH_URL"
        options["basic_auth"] = (unquote(parts.username), unquote(parts.password or ""))
    else:
        credentials = f"NVRX_ATTRSVC_ELASTICSEARCH_API_KEY, or {credentials} (none is set)"
    if settings.elasticsearch_ca_file:
        options["ca_certs"] = settings.elasticsearch_ca_file
    try:
        client = AsyncElasticsearch(
            urlunsplit((parts.scheme, place, parts.path, "", "")),
            request_timeout=settings.sink_timeout_s,
            max_retries=QUICK_RETRIES,
            retry_on_timeout=True,
            retry_on_status=(502, 503, 504),
            **options,
        )
    except (ValueError, OSError) as exc:
        raise BadSettings(f"NVRX_ATTRSVC_ELASTICSEARCH_CA_FILE: cannot be used ({type(exc).__name__})") from None
    return place, credentials, client


def _outcome(delivery: Delivery, item: Any) -> Outcome:
    result = item.get("index") if isinstance(item, dict) else None
    status = result.get("status") if isinstance(result, dict) else None
    # A conflict means that a newer record of this entry is there already.
    if status in (200, 201, 409):
        return Outcome(delivery_id=delivery.delivery_id, state="done")
    error = result.get("error") if isinstance(result, dict) else None
    kind, why = (str(error.get("type")), str(error.get("reason"))) if isinstance(error, dict) else ("unknown", "no reason given")
    reason = one_line(f"{status} {kind}: {why}", 300)
    return Outcome(delivery_id=delivery.delivery_id, state="parked" if kind in REFUSED else "retry", reason=reason)
