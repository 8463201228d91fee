"""What the model gets of each labelled log: is the true root line among it, how many tokens, how much smaller than the log.

python -m bench.model_evidence [../shared/data/logs]
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from attr_actors.core.engine import Engine
from attr_actors.core.paths import LogPath
from attr_actors.core.prompting import build_prompt
from attr_actors.core.redaction import Redactor
from attr_actors.settings import Settings

TOKENS_MAX = 8000


class Row(NamedTuple):
    """One log: whether its root line is shown (None where it has none), tokens by estimate, bytes sent and read."""

    name: str
    shown: bool | None
    tokens: int
    sent: int
    read: int


def measure(logs: Path) -> list[Row]:
    """Build the prompt of every labelled log."""
    engine = Engine(Settings.load(allowed_root=str(logs)).engine)
    labels = [json.loads(line) for line in (logs / "labels.jsonl").read_text().splitlines()]
    return [_row(engine, logs, label) for label in labels]


def _row(engine: Engine, logs: Path, label: dict[str, Any]) -> Row:
    path = logs / "cases" / f"{label['id']}.log"
    analysis = engine.analyze(LogPath(str(path.resolve()), str(logs.resolve())))
    prompt = build_prompt(analysis.cycles[-1], Redactor("secrets"), TOKENS_MAX)
    truths = [label["root_line"], *label.get("also_right", {}).get("root_line", [])] if label.get("root_line") else []
    shown = any(truth in line.text for truth in truths for line in prompt.shown.values()) if truths else None
    sent = sum(len(message["content"].encode()) for message in prompt.messages)
    return Row(label["id"], shown, prompt.tokens, sent, path.stat().st_size)


def main() -> None:
    """Print the table."""
    logs = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/logs")
    rows = measure(logs)
    judged = [row for row in rows if row.shown is not None]
    tokens = [row.tokens for row in rows]
    print(f"root line among the shown lines: {sum(bool(r.shown) for r in judged)} of {len(judged)}")
    print(f"missing: {[row.name for row in judged if not row.shown]}")
    print(f"prompt tokens by estimate: median {statistics.median(tokens):.0f}, largest {max(tokens)} (limit {TOKENS_MAX})")
    read, sent = sum(row.read for row in rows), sum(row.sent for row in rows)
    print(f"reduction: {read} bytes of logs to {sent} bytes of prompts, instructions included: {read / sent:.0f}")
    print(f"reduction per log: median {statistics.median(row.read / row.sent for row in rows):.1f}")


if __name__ == "__main__":
    main()
