"""The predecessor's ledger: its JSON entries to analyses and back.

Hold in mind: its answers are texts, so what an imported analysis lacks (lines, nodes, category) stays empty, and its
texts come out again as they went in. Entries that we exported carry the whole analysis and lose nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from attr_actors.core.rendering import one_line, render_cycle_text
from attr_actors.models import Action, Analysis, Attribution, Cascade, Category, Line, Progress, Recording, Requester, Snapshot

VERSION = 1
ENGINE = "predecessor"
"""The engine of imported answers: they are served until their log changes, whatever engine runs."""

ACTIONS = {
    "RESTART IMMEDIATE": Action.RESTART,
    "STOP - DONT RESTART IMMEDIATE": Action.STOP,
    "ERRORS NOT FOUND": Action.CONTINUE,
}
"""The texts that are answers. Others (a failed model call, no log) are errors, and errors are not kept as answers."""
ISSUES = re.compile(r"Primary issues:\s*\[(.*?)\]\s*,\s*Secondary issues:\s*\[(.*?)\]", re.DOTALL)


def parse_entry(entry: dict[str, Any], size: int, mtime_ns: int) -> Recording | None:
    """Return what an entry says of a file that still has this size and mtime, or None if it holds no answer."""
    seen = Snapshot(path=entry["key"], size=size, mtime_ns=mtime_ns)
    own = entry.get("analysis")
    if isinstance(own, dict):
        return _parse_own(own, entry.get("requester"), seen)
    result = entry.get("result")
    items = result.get("result") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(items, list) or result.get("state") == "timeout" or result.get("error"):
        return None
    cycles = [parse_text(text) for text in map(_text_of, items) if text is not None]
    if not cycles or len(cycles) != len(items) or None in cycles:
        return None
    analysis = Analysis(
        snapshot=seen,
        engine=ENGINE,
        cycles=tuple(c for c in cycles if c),
        result_id=_result_id(result),
        # Not younger than its log: the grace period is for answers of our own.
        analysed_at=mtime_ns / 1e9,
        log_bytes=size,
    )
    return Recording(analysis=analysis)


def parse_text(text: str) -> Attribution | None:
    """Return the attribution that a cycle's text describes, or None if the text is no answer."""
    lines = text.split("\n")
    action = ACTIONS.get(lines[0].strip())
    if action is None:
        return None
    issues = ISSUES.search(text)
    primary, secondary = issues.groups() if issues else ("", "")
    explanation = lines[1].strip() if len(lines) > 1 else ""
    return Attribution(
        action=action,
        category=Category.NONE if action is Action.CONTINUE else Category.UNKNOWN,
        signature=one_line(primary) or None,
        rule="imported",
        root_cause=one_line(explanation or primary),
        cascade=tuple(Cascade(signature=one_line(name), count=1, first=NO_LINE) for name in secondary.split(",") if name.strip()),
        # Line 0: a checkpoint was saved, and the text does not say where.
        progress=Progress(last_checkpoint_line=0) if lines[-1].strip().lower() == "true" else Progress(),
        source="model",
        coverage_note="imported from the predecessor's ledger",
    )


NO_LINE = Line(line_number=0, byte_offset=0, text="")


def render_entry(recording: Recording) -> dict[str, Any]:
    """Return an entry that the predecessor can read, with the whole analysis beside it."""
    analysis = recording.analysis
    return {
        "key": analysis.snapshot.path,
        "result": {
            "module": "log_analyzer",
            "state": "complete",
            "result_id": analysis.result_id,
            "result": [[render_cycle_text(cycle), {"action": cycle.action.value}] for cycle in analysis.cycles],
            "error": None,
        },
        "file_mtime": stat_mtime(analysis.snapshot.mtime_ns),
        "file_size": analysis.snapshot.size,
        "analysis": analysis.model_dump(mode="json"),
        "requester": recording.requester.model_dump(mode="json"),
    }


def stat_mtime(mtime_ns: int) -> float:
    """Return the mtime as ``os.stat`` gives it, to the last bit: the predecessor compares with ``==``."""
    return mtime_ns // 10**9 + 1e-9 * (mtime_ns % 10**9)


def _parse_own(own: dict[str, Any], requester: Any, seen: Snapshot) -> Recording | None:
    try:
        analysis = Analysis.model_validate(own)
        asker = Requester.model_validate(requester) if isinstance(requester, dict) else Requester()
    except ValueError:
        return None
    return Recording(analysis=analysis, requester=asker) if analysis.snapshot == seen else None


def _text_of(item: Any) -> str | None:
    """Return the text of an item of ``result``: the item itself, or the first of a pair."""
    first = item[0] if isinstance(item, list) and item else item
    return first if isinstance(first, str) else None


def _result_id(result: dict[str, Any]) -> str:
    found = result.get("result_id")
    if isinstance(found, str) and re.fullmatch(r"[0-9a-f]{64}", found):
        return found
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
