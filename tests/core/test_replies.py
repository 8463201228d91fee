"""A model's text becomes a bounded reply, or BadReply with the reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attr_actors.core.replies import parse_reply, reply_schema
from attr_actors.errors import BadReply
from attr_actors.models import Action, Category

GOOD = {
    "root_cause": "disk full",
    "citations": [{"line": 3, "quote": "No space left"}],
    "category": "storage",
    "action": "STOP",
    "nodes": [],
}
TEXT = json.dumps(GOOD)

SHAPES = {
    "plain": TEXT,
    "fenced": f"```json\n{TEXT}\n```",
    "prose": f"Here you are: {TEXT} I hope that helps.",
    "thinking": f'<think>maybe {{"action": "RESTART"}}</think>\n{TEXT}',
    "braces before": f"{{not json}} {TEXT}",
    "other case": json.dumps(GOOD | {"action": " stop ", "category": "STORAGE"}),
    "extra fields": json.dumps(GOOD | {"confidence": 0.9, "path": "/etc/passwd"}),
    "an object before": f'{{"lines": []}} {TEXT}',
    "missing lists": json.dumps({k: v for k, v in GOOD.items() if k not in ("nodes", "citations")}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_is_found_in_the_shapes_that_models_give_it(shape: str) -> None:
    reply = parse_reply(SHAPES[shape])
    assert (reply.action, reply.category, reply.root_cause) == (Action.STOP, Category.STORAGE, "disk full")


BAD = {
    "empty": "",
    "blank": " \n",
    "only thinking": "<think>hmm, the disk",
    "prose": "The disk is full, you should stop.",
    "cut": TEXT[:-20],
    "a list": "[1, 2]",
    "no action": json.dumps({k: v for k, v in GOOD.items() if k != "action"}),
    "unknown action": json.dumps(GOOD | {"action": "REBOOT"}),
    "no cause": json.dumps(GOOD | {"root_cause": "  "}),
    "wrong types": json.dumps(GOOD | {"citations": "line 3"}),
    "huge": json.dumps(GOOD | {"root_cause": "x" * 100_000}),
    "nested": '{"a":' * 50_000,
}


@pytest.mark.parametrize("shape", BAD)
def test_what_is_no_answer_is_a_bad_reply_that_quotes_little(shape: str) -> None:
    with pytest.raises(BadReply) as caught:
        parse_reply(BAD[shape])
    assert 0 < len(caught.value.message) < 250


def test_long_lists_and_texts_are_cut() -> None:
    reply = parse_reply(json.dumps(GOOD | {"nodes": ["n"] * 500, "root_cause": "y" * 5000}))
    assert len(reply.nodes) < 50
    assert len(reply.root_cause) == 1000


@settings(deadline=None)  # A busy machine is no fault of the code.
@given(st.text(max_size=300))
def test_any_text_gives_a_reply_or_a_bad_reply(text: str) -> None:
    try:
        parse_reply(text)
    except BadReply:
        return


def test_the_schema_is_closed_and_names_every_action_and_category() -> None:
    for with_lookups in (False, True):
        schema = reply_schema(with_lookups)
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"])
        assert set(schema["properties"]["action"]["enum"]) == set(Action)
        assert set(schema["properties"]["category"]["enum"]) == set(Category)
        assert ("lookups" in schema["properties"]) is with_lookups
