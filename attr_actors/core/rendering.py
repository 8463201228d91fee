"""An answer in the words of others: the predecessor's text fields, the Elasticsearch record, the Slack message.

Hold in mind: names and texts here are a published contract (dashboards query them, monitors print them), and log text
is untrusted, so each rendering bounds its length and escapes what its reader would interpret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from attr_actors.core.entries import entry_key
from attr_actors.models import Action, Attribution, Entry, Line

AUTO_RESUME = {
    Action.RESTART: "RESTART IMMEDIATE",
    Action.EXCLUDE: "RESTART IMMEDIATE",
    Action.STOP: "STOP - DONT RESTART IMMEDIATE",
    Action.CONTINUE: "ERRORS NOT FOUND",
    Action.UNKNOWN: "RESTART IMMEDIATE",  # In doubt restart: a cluster that stands idle is the costlier mistake.
}
TEXT_MAX = 4000
"""Longest text of a record's field, characters: under Lucene's limit of 32,766 bytes per keyword in any script."""
ISSUES_MAX = 8
"""Most secondary issues in one text; the structured answer has them all."""


def render_auto_resume(action: Action) -> str:
    """Return the predecessor's words for an action. One contains the other: compare enums, never these."""
    return AUTO_RESUME[action]


def render_cycle_text(attribution: Attribution) -> str:
    """Return the predecessor's text of one workload cycle, which monitors print line by line."""
    return "\n".join(
        (
            render_auto_resume(attribution.action),
            render_explanation(attribution),
            "",
            f"Attribution: {render_issues(attribution)}",
            "",
            "true" if saved_checkpoint(attribution) else "false",
        )
    )


def render_explanation(attribution: Attribution) -> str:
    """Return the root cause on one line, with where it was seen and whom it names."""
    text = one_line(attribution.root_cause)
    if attribution.root_lines:
        text += f" (line {attribution.root_lines[0].line_number})"
    if attribution.exclude_nodes:
        text += f" Exclude: {', '.join(attribution.exclude_nodes[:ISSUES_MAX])}."
    return text + _render_disagreement(attribution)


def _render_disagreement(attribution: Attribution) -> str:
    opinion = attribution.opinion
    if opinion is None or opinion.agrees:
        return ""
    if attribution.source == "model":
        return f" The rules alone say {attribution.rules_action}."
    return f" The model disagrees: {opinion.action}, {opinion.category}."


def render_issues(attribution: Attribution) -> str:
    """Return ``Primary issues: [...], Secondary issues: [...]`` as the predecessor wrote it."""
    failed = attribution.action is not Action.CONTINUE
    primary = [attribution.signature or attribution.category.value] if failed else []
    secondary = list(dict.fromkeys(group.signature for group in attribution.cascade))[:ISSUES_MAX]
    return f"Primary issues: [{', '.join(primary)}], Secondary issues: [{', '.join(secondary)}]"


def saved_checkpoint(attribution: Attribution) -> bool:
    """Tell whether the judged attempt saved a checkpoint."""
    progress = attribution.progress
    return progress.last_checkpoint is not None or progress.last_checkpoint_line is not None


def one_line(text: str, limit: int = TEXT_MAX) -> str:
    """Return the text without line breaks or other control characters, cut to ``limit`` characters."""
    flat = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text[: 2 * limit]).strip()
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def render_record(entry: Entry, cluster: str) -> dict[str, Any]:
    """Return the Elasticsearch (and webhook) record of an entry. ``s_`` text, ``l_`` whole, ``d_`` real number, ``ts_`` ms."""
    answer, opinion, asker = entry.attribution, entry.attribution.opinion, entry.requester
    root = answer.root_lines[0] if answer.root_lines else None
    return {
        "s_cluster": cluster,
        "s_user": asker.user,
        "s_attribution": one_line(render_issues(answer)),
        "s_auto_resume": render_auto_resume(answer.action),
        "s_auto_resume_explanation": one_line(render_explanation(answer)),
        "s_job_id": asker.job_id or "",
        "l_cycle_id": (asker.cycle_id or 0) + entry.wl_restart,
        "s_log_path": entry.snapshot.path,
        "l_checkpoint_saved": int(saved_checkpoint(answer)),
        "d_processing_time": entry.scan_s + (opinion.latency_s if opinion else 0.0),
        "ts_current_time": int(entry.analysed_at * 1000),
        "s_recommendation_action": answer.action.value,
        "s_recommendation_source": answer.source,
        "s_category": answer.category.value,
        "s_signature": answer.signature or "",
        "s_owner": answer.owner,
        "s_root_line": one_line(root.text) if root else "",
        "l_root_line_number": root.line_number if root else None,
        "s_nodes": named_nodes(answer),
        "s_entry_key": entry_key(entry),
        "l_log_bytes": entry.log_bytes,
        "d_scan_seconds": entry.scan_s,
        "l_tokens_in": opinion.tokens_in if opinion else 0,
        "l_tokens_out": opinion.tokens_out if opinion else 0,
        "d_cost_usd": opinion.cost_usd if opinion else 0.0,
    }


def named_nodes(attribution: Attribution) -> list[str]:
    """Return the nodes that the answer names, those to exclude first."""
    suspects = [s.name for s in attribution.suspects if s.kind == "node"]
    return list(dict.fromkeys([*attribution.exclude_nodes, *suspects]))[:100]


def escape_mrkdwn(text: str) -> str:
    """Return text that Slack shows as it is: no mention, link or formatting can come from a log."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("`", "\u02cb")


def render_slack_text(entry: Entry, slack_user_id: str | None) -> str:
    """Return the message's text: the predecessor's, and what notifications and old clients show."""
    answer = entry.attribution
    lines = [
        f"*Job ID:* `{_cell(entry.requester.job_id or 'unknown', 200)}`",
        f"*Failed due to:* {_cell(render_issues(answer), 600)}",
        f"*Terminal issue:* {_cell(render_explanation(answer), 1200)}",
        f"*Log path:* `{_cell(entry.snapshot.path, 1000)}`",
    ]
    if slack_user_id:
        lines.append(f"<@{slack_user_id}>")
    return "\n".join(lines)


def render_slack_blocks(entry: Entry, slack_user_id: str | None, cluster: str) -> list[dict[str, Any]]:
    """Return the message's blocks: job, cause, node, cited line, action, log path; inside Slack's length limits."""
    answer = entry.attribution
    owner = f"<@{slack_user_id}>" if slack_user_id else _cell(entry.requester.user, 200)
    fields = {
        "Job": f"`{_cell(entry.requester.job_id or 'unknown', 200)}`",
        "User": owner,
        "Cause": f"{answer.category.value} / {_cell(answer.signature or 'no signature', 200)}",
        "Action": render_auto_resume(answer.action),
        "Node": _cell(", ".join(named_nodes(answer)[:ISSUES_MAX]) or "none named", 500),
        "Attempt": f"{entry.wl_restart + 1} of {entry.cycles}",
    }
    title = f"{cluster}: training job stopped" if cluster else "Training job stopped"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": one_line(title, 150)}},
        {"type": "section", "fields": [_mrkdwn(f"*{name}*\n{value}") for name, value in fields.items()]},
        {"type": "section", "text": _mrkdwn(f"*Terminal issue*\n{_cell(render_explanation(answer), 1200)}")},
    ]
    if answer.root_lines:
        blocks.append({"type": "section", "text": _mrkdwn(f"```{_cited(answer.root_lines[0])}```")})
    blocks.append({"type": "context", "elements": [_mrkdwn(f"`{_cell(entry.snapshot.path, 1000)}`")]})
    return blocks


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _cell(text: str, limit: int) -> str:
    """Escape and cut, so that the escaped text keeps the limit and no entity is cut in two."""
    escaped = escape_mrkdwn(one_line(text, limit))
    return escaped if len(escaped) <= limit else re.sub(r"&[a-z]{0,3}$", "", escaped[: limit - 1]) + "…"


def _cited(line: Line) -> str:
    where = " ".join(filter(None, (f"rank {line.rank}" if line.rank is not None else "", line.node)))
    return _cell(f"line {line.line_number}{' ' + where if where else ''}: {line.text}", 1200)


def ranges(ranks: Iterable[int]) -> str:
    """Render sorted ranks as ranges: 0-3,5."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:16])
    return text + (",..." if len(runs) > 16 else "")
