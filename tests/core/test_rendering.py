"""The texts that monitors print, dashboards query and people read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.entries import entries_of, entry_key
from attr_actors.core.rendering import (
    escape_mrkdwn,
    one_line,
    render_auto_resume,
    render_cycle_text,
    render_record,
    render_slack_blocks,
    render_slack_text,
)
from attr_actors.models import Action, Category, ModelOpinion, Progress, Suspect
from tests.answers import attribution, line, recording

RECORD_FIELDS = """
s_cluster s_user s_attribution s_auto_resume s_auto_resume_explanation s_job_id l_cycle_id s_log_path l_checkpoint_saved
d_processing_time ts_current_time s_recommendation_action s_recommendation_source s_category s_signature s_owner s_root_line
l_root_line_number s_nodes s_entry_key l_log_bytes d_scan_seconds l_tokens_in l_tokens_out d_cost_usd
"""
KINDS = {"s": (str, list), "l": (int, type(None)), "d": (float,), "ts": (int,)}


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (Action.RESTART, "RESTART IMMEDIATE"),
        (Action.EXCLUDE, "RESTART IMMEDIATE"),
        (Action.STOP, "STOP - DONT RESTART IMMEDIATE"),
        (Action.CONTINUE, "ERRORS NOT FOUND"),
        (Action.UNKNOWN, "RESTART IMMEDIATE"),
    ],
)
def test_action_has_the_predecessors_words(action: Action, words: str) -> None:
    assert render_auto_resume(action) == words


def test_cycle_text_has_the_predecessors_lines() -> None:
    text = render_cycle_text(attribution(progress=Progress(last_checkpoint=200)))
    assert text.split("\n") == [
        "STOP - DONT RESTART IMMEDIATE",
        "CUDA ran out of memory on rank 3 (line 7)",
        "",
        "Attribution: Primary issues: [cuda_oom], Secondary issues: [nccl_abort]",
        "",
        "true",
    ]


def test_healthy_cycle_names_no_issue_and_no_checkpoint() -> None:
    healthy = attribution(Action.CONTINUE, None, category=Category.NONE, root_lines=(), cascade=(), root_cause="the run finished")
    assert render_cycle_text(healthy).endswith("Attribution: Primary issues: [], Secondary issues: []\n\nfalse")


def test_excluded_nodes_stand_in_the_explanation() -> None:
    assert "Exclude: n1, n2." in render_cycle_text(attribution(Action.EXCLUDE, exclude_nodes=("n1", "n2")))


def test_a_disagreement_stands_in_the_explanation_whoever_decided() -> None:
    told = ModelOpinion(model="m", prompt_version="1", action="STOP", category="storage", root_cause="disk", agrees=False)
    assert "The model disagrees: STOP, storage." in render_cycle_text(attribution(opinion=told))
    followed = attribution(opinion=told, source="model", rules_action=Action.RESTART)
    assert "The rules alone say RESTART." in render_cycle_text(followed)
    assert "disagrees" not in render_cycle_text(attribution(opinion=told.model_copy(update={"agrees": True})))


@given(st.text(), st.text())
def test_log_text_never_adds_a_line_to_the_cycle_text(cause: str, signature: str) -> None:
    text = render_cycle_text(attribution(root_cause=cause, signature=one_line(signature)))
    assert len(text.splitlines()) == 6


def test_record_has_every_field_of_the_contract_with_its_type() -> None:
    opinion = ModelOpinion(
        model="m",
        prompt_version="1",
        action=Action.STOP,
        category=Category.DATA,
        root_cause="x",
        agrees=True,
        tokens_in=5,
        tokens_out=6,
        latency_s=2.0,
    )
    answer = attribution(opinion=opinion, exclude_nodes=("n2",), suspects=(Suspect(kind="node", name="n1", reason="r"),))
    entry = entries_of(recording("/logs/a.log", attribution(), answer))[1]
    record = render_record(entry, "alpha")
    assert sorted(record) == sorted(RECORD_FIELDS.split())
    for name, value in record.items():
        assert isinstance(value, KINDS[name.split("_")[0]]), name
    assert record["s_nodes"] == ["n2", "n1"]
    assert record["l_cycle_id"] == 1
    assert record["ts_current_time"] == 10**12
    assert record["d_processing_time"] == 2.5
    assert record["s_entry_key"] == entry_key(entry)
    assert (record["s_user"], record["s_job_id"], record["s_cluster"]) == ("ada", "4711", "alpha")
    json.dumps(record)


def test_slack_text_is_the_predecessors_with_the_mention_of_the_owner() -> None:
    text = render_slack_text(entries_of(recording())[0], "U123")
    assert text.split("\n") == [
        "*Job ID:* `4711`",
        "*Failed due to:* Primary issues: [cuda_oom], Secondary issues: [nccl_abort]",
        "*Terminal issue:* CUDA ran out of memory on rank 3 (line 7)",
        "*Log path:* `/logs/a.log`",
        "<@U123>",
    ]


def test_slack_blocks_name_job_cause_node_cited_line_action_and_path() -> None:
    shown = json.dumps(render_slack_blocks(entries_of(recording("/logs/a.log", attribution(exclude_nodes=("gpu-17",))))[0], None, "alpha"))
    for expected in ("4711", "cuda_oom / cuda_oom", "gpu-17", "line 7 rank 3", "STOP - DONT RESTART", "/logs/a.log", "ada", "alpha"):
        assert expected in shown


@given(st.text(st.sampled_from("<>&`!@#*_~|\n\r\u2028a"), max_size=5000))
def test_log_text_cannot_mention_link_or_overflow_in_slack(text: str) -> None:
    entry = entries_of(
        recording("/logs/" + text, attribution(root_cause=text, root_lines=(line(1, text),), signature=text), user=text, job_id=text)
    )[0]
    blocks = render_slack_blocks(entry, None, "c")
    shown = render_slack_text(entry, None) + json.dumps(blocks)
    assert "<" not in shown
    assert "````" not in shown
    assert len(render_slack_text(entry, None)) < 4000
    for block in blocks:
        for part in [block.get("text"), *block.get("fields", []), *block.get("elements", [])]:
            assert part is None or len(part["text"]) <= (2000 if "fields" in block else 3000)
    assert len(blocks) <= 50


def test_escaping_is_cut_between_entities() -> None:
    assert escape_mrkdwn("<!channel> & `x`") == "&lt;!channel&gt; &amp; ˋxˋ"
