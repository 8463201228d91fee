"""A small Elasticsearch 8 on loopback: product header, media types, templates, bulk with per-item results and versions."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from tests.loopback import Loopback, Reply, Request

TYPES = {"long": int, "double": (int, float), "date": int, "keyword": (str, list), "text": str}


class ElasticsearchTwin(Loopback):
    def __init__(self) -> None:
        super().__init__(X_Elastic_Product="Elasticsearch", Content_Type="application/vnd.elasticsearch+json;compatible-with=8")
        self.documents: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}
        self.writes = 0
        self.templates: dict[str, Any] = {}
        self.item_errors: dict[str, tuple[int, str]] = {}
        """Document id to the (status, type) that its next bulk item gets, once."""
        self.body_max = 100 << 20
        self.authorization: str | None = None

    def answer(self, request: Request) -> Reply:
        path = unquote(urlsplit(request.path).path)
        if self.authorization and request.headers.get("authorization") != self.authorization:
            return self._error(401, "security_exception", "missing authentication credentials for REST request")
        if "compatible-with=9" in request.headers.get("accept", "") + request.headers.get("content-type", ""):
            return self._error(400, "media_type_header_exception", "Invalid media-type value on headers [Accept, Content-Type]")
        if path == "/":
            return Reply(200, {"version": {"number": "8.19.0", "build_flavor": "default"}, "tagline": "You Know, for Search"})
        if path.startswith("/_index_template/") and request.method == "PUT":
            self.templates[path.rpartition("/")[2]] = json.loads(request.body)
            return Reply(200, {"acknowledged": True})
        if path.endswith("/_bulk"):
            return self._bulk(path.split("/")[1], request.body)
        return self._error(400, "illegal_argument_exception", f"no handler found for uri [{path}] and method [{request.method}]")

    def _bulk(self, index: str, body: bytes) -> Reply:
        if len(body) > self.body_max:
            return Reply(413, b"", {}, "text/plain")
        if not body.endswith(b"\n"):
            return self._error(400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
        lines = [json.loads(line) for line in body.splitlines()]
        items = [self._index(index, action["index"], source) for action, source in zip(lines[::2], lines[1::2], strict=True)]
        return Reply(200, {"took": 1, "errors": any("error" in i for i in items), "items": [{"index": item} for item in items]})

    def _index(self, index: str, action: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
        ident = action["_id"]
        result = {"_index": index, "_id": ident}
        if ident in self.item_errors:
            code, kind = self.item_errors.pop(ident)
            return {**result, "status": code, "error": {"type": kind, "reason": f"made to fail with {kind}"}}
        wrong = [name for name, value in source.items() if not self._fits(name, value)]
        if wrong:
            return {
                **result,
                "status": 400,
                "error": {"type": "document_parsing_exception", "reason": f"failed to parse field [{wrong[0]}]"},
            }
        assert action["version_type"] == "external_gte"
        if action["version"] < self.versions.get(ident, 0):
            return {**result, "status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "version conflict"}}
        created = ident not in self.documents
        self.documents[ident], self.versions[ident] = source, action["version"]
        self.writes += 1
        return {**result, "_version": action["version"], "result": "created" if created else "updated", "status": 201 if created else 200}

    def _fits(self, name: str, value: object) -> bool:
        for template in self.templates.values():
            for rule in template["template"]["mappings"]["dynamic_templates"]:
                for kind in rule.values():
                    if name.startswith(kind["match"].rstrip("*")) and name.split("_")[0] + "_*" == kind["match"]:
                        return value is None or isinstance(value, TYPES[kind["mapping"]["type"]])
        return True

    def _error(self, code: int, kind: str, reason: str) -> Reply:
        return Reply(code, {"error": {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason}, "status": code})


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TooBusy(Loopback):
    """A proxy in front of a real Elasticsearch that answers 429 while ``busy``, as a cluster with full queues does."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._target = url
        self.busy = False
        self.refused = 0

    def answer(self, request: Request) -> Reply:
        if self.busy:
            self.refused += 1
            body = {
                "error": {"type": "es_rejected_execution_exception", "reason": "rejected execution of coordinating operation"},
                "status": 429,
            }
            return Reply(429, body, {"X-Elastic-Product": "Elasticsearch"})
        headers = {name: value for name, value in request.headers.items() if name in ("accept", "content-type", "authorization")}
        try:
            reply = httpx.request(request.method, self._target + request.path, content=request.body, headers=headers, timeout=30)
        except httpx.HTTPError:
            return Reply(503, b"", {}, "text/plain")
        return Reply(reply.status_code, reply.content, {"X-Elastic-Product": "Elasticsearch"}, reply.headers["content-type"])
