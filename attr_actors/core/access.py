"""API keys: who a token belongs to and what its holder may do. Knows no file and no HTTP.

A token is 32 random bytes, so that its SHA-256 needs no salt and no slow hash. The file holds hashes only:

    {"keys": [{"name": "monitor", "sha256": "<64 hex>", "scopes": ["read", "submit"], "root": "/logs/team-a"}]}
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field, TypeAdapter, ValidationError

from attr_actors.core.paths import is_inside
from attr_actors.errors import BadSettings, Forbidden, Unauthorized
from attr_actors.models import Value

TOKEN_PREFIX = "nvrx_"
"""Marks a token as ours, so that secret scanners and people recognise one."""


class Scope(StrEnum):
    """What a key is good for; ``admin`` includes the others."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


class Caller(Value):
    """Who asks. ``root`` confines the paths; None is the allowed root itself."""

    name: str
    scopes: frozenset[Scope]
    root: str | None = None

    def require(self, scope: Scope) -> None:
        """Raise Forbidden unless the caller has the scope."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise Forbidden(f"the API key '{self.name}' lacks the scope '{scope}'")


ANYONE = Caller(name="anyone", scopes=frozenset(Scope))
"""The caller where no keys are asked for."""


class KeyRow(Value):
    """One key as the file holds it."""

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    root: str | None = Field(None, pattern="^/")


class KeyFileBody(Value):
    """The whole file."""

    keys: tuple[KeyRow, ...]


class KeyRing:
    """The keys by the hash of their token."""

    def __init__(self, rows: Iterable[KeyRow]) -> None:
        self._rows = {
            row.sha256: (row.sha256.encode(), Caller(name=row.name, scopes=row.scopes, root=row.root and os.path.normpath(row.root)))
            for row in rows
        }

    def identify(self, token: str) -> Caller:
        """Return the holder of a token. Raises Unauthorized.

        Only hashes are compared: how long that takes tells nothing about a token.
        """
        digest = hash_token(token)
        found = self._rows.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest.encode()):
            raise Unauthorized("the API key is not known")
        return found[1]


def new_token() -> str:
    """Return a fresh token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """Return what the file keeps of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def parse_keys(text: str) -> tuple[KeyRow, ...]:
    """Read the file's text. Raises BadSettings, without quoting what the file holds."""
    try:
        body = TypeAdapter(KeyFileBody).validate_json(text)
    except ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors(include_input=False))
        raise BadSettings(f"the file of API keys is not valid: {faults}") from None
    names = [row.name for row in body.keys]
    if len(set(names)) < len(names):
        raise BadSettings("the file of API keys has two keys of one name")
    return body.keys


def render_keys(rows: Iterable[KeyRow]) -> str:
    """Return the file's text."""
    shown = [row.model_dump(mode="json", exclude_none=True) | {"scopes": sorted(row.scopes)} for row in rows]
    return json.dumps({"keys": shown}, indent=2) + "\n"


def narrower_root(root: str, allowed_root: str) -> str:
    """Return the root of a key if it lies inside the allowed root. Raises Forbidden: such a key may read nothing."""
    if not is_inside(root, allowed_root):
        raise Forbidden("the root directory of this API key lies outside the allowed root")
    return root
