"""The predecessor's entries, to analyses and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.predecessor import ENGINE, parse_entry, parse_text, render_entry, stat_mtime
from attr_actors.core.rendering import render_cycle_text
from attr_actors.models import Action, Category
from tests.answers import attribution, recording

TEXT = """STOP - DONT RESTART IMMEDIATE
The optimizer state does not match the model

Attribution: Primary issues: [shape mismatch], Secondary issues: [NCCL abort, rank exit]

true"""


def entry(*items: Any, **more: Any) -> dict[str, Any]:
    result = {"module": "log_analyzer", "state": "complete", "result_id": "cd" * 32, "result": list(items)}
    return {"key": "/logs/a", "result": {**result, **more}, "file_mtime": 1.5, "file_size": 9}


def test_text_becomes_an_attribution_and_comes_out_as_it_went_in() -> None:
    parsed = parse_text(TEXT)
    assert parsed is not None
    assert (parsed.action, parsed.category, parsed.source) == (Action.STOP, Category.UNKNOWN, "model")
    assert render_cycle_text(parsed) == TEXT


@pytest.mark.parametrize("text", ["", "LLM FAILURE\nx", "NO LOGS", "restart immediate", "{}"])
def test_text_that_is_no_answer_is_not_taken_for_one(text: str) -> None:
    assert parse_text(text) is None


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    parse_text(text)
    parse_text("RESTART IMMEDIATE\n" + text)


@pytest.mark.parametrize("items", [[TEXT], [[TEXT, {"action": "STOP"}]], [[TEXT, "x"], [TEXT]]])
def test_entry_becomes_an_analysis_with_one_cycle_per_item(items: list[Any]) -> None:
    parsed = parse_entry(entry(*items), 9, 1_500_000_000)
    assert parsed is not None
    assert len(parsed.analysis.cycles) == len(items)
    assert (parsed.analysis.engine, parsed.analysis.result_id) == (ENGINE, "cd" * 32)
    assert (parsed.analysis.snapshot.size, parsed.analysis.snapshot.mtime_ns) == (9, 1_500_000_000)


@pytest.mark.parametrize(
    "broken",
    [
        entry(),
        entry(7),
        entry([]),
        entry(TEXT, "garbage"),
        entry(TEXT, state="timeout"),
        entry(TEXT, error="x"),
        {**entry(TEXT), "result": "x"},
    ],
)
def test_entry_without_an_answer_is_refused(broken: dict[str, Any]) -> None:
    assert parse_entry(broken, 9, 1_500_000_000) is None


def test_exported_entry_loses_nothing_and_is_readable_by_the_predecessor() -> None:
    stored = recording("/logs/a", attribution(), attribution(Action.EXCLUDE, exclude_nodes=("n1",)))
    rendered = render_entry(stored)
    assert parse_entry(rendered, 4096, 10**18) == stored
    assert rendered["result"]["result"][0][0].startswith("STOP - DONT RESTART IMMEDIATE\n")
    assert (rendered["key"], rendered["file_size"], rendered["file_mtime"]) == ("/logs/a", 4096, 1e9)


def test_exported_entry_of_another_content_is_refused() -> None:
    assert parse_entry(render_entry(recording("/logs/a")), 4097, 10**18) is None


@given(st.integers(0, 2**62))
def test_mtime_is_exported_as_stat_gives_it(mtime_ns: int) -> None:
    assert stat_mtime(mtime_ns) == mtime_ns // 10**9 + 1e-9 * (mtime_ns % 10**9)
