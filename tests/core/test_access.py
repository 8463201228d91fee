"""API keys: who a token belongs to."""

from __future__ import annotations

import pytest

from attr_actors.core.access import Caller, KeyRing, KeyRow, Scope, hash_token, new_token, parse_keys, render_keys
from attr_actors.errors import BadSettings, Forbidden, Unauthorized


def row(token: str, **fields: object) -> KeyRow:
    return KeyRow.model_validate({"name": "ann", "scopes": ["read"], "sha256": hash_token(token)} | fields)


def test_a_token_identifies_its_holder_and_no_other_text_does() -> None:
    token = new_token()
    ring = KeyRing([row(token, root="/logs/a/")])
    assert ring.identify(token) == Caller(name="ann", scopes=frozenset({Scope.READ}), root="/logs/a")
    for wrong in ("", token[:-1], token + "x", token.upper(), hash_token(token), "\udcff"):
        with pytest.raises(Unauthorized):
            ring.identify(wrong)


def test_admin_includes_the_other_scopes_and_read_does_not_include_submit() -> None:
    Caller(name="root", scopes=frozenset({Scope.ADMIN})).require(Scope.SUBMIT)
    with pytest.raises(Forbidden, match="lacks the scope 'submit'"):
        Caller(name="ann", scopes=frozenset({Scope.READ})).require(Scope.SUBMIT)


def test_the_file_holds_no_token_and_is_read_back_as_it_was() -> None:
    token = new_token()
    rows = (row(token), row(new_token(), name="bob", scopes=["submit", "admin"], root="/x"))
    assert token not in render_keys(rows)
    assert parse_keys(render_keys(rows)) == rows


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"keys": 1}',
        '{"keys": [{"name": "a", "sha256": "short", "scopes": ["read"]}]}',
        '{"keys": [{"name": "a", "sha256": "%s", "scopes": []}]}' % ("0" * 64),
        '{"keys": [{"name": "a", "sha256": "%s", "scopes": ["write"]}]}' % ("0" * 64),
        '{"keys": [{"name": "a", "sha256": "%s", "scopes": ["read"], "root": "relative"}]}' % ("0" * 64),
        '{"keys": [%s, %s]}' % (('{"name": "a", "sha256": "%s", "scopes": ["read"]}' % ("0" * 64),) * 2),
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(BadSettings) as refused:
        parse_keys(text)
    assert "short" not in refused.value.message
    assert refused.value.message
