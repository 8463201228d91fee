"""The labelled logs: the figures that a release must reach. Skipped with the reason where the logs are absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attr_actors.core.engine import Engine
from attr_actors.core.paths import LogPath
from attr_actors.models import EngineConfig


@pytest.fixture(scope="module")
def scores(shared_dir: Path, signatures_cache: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    logs = sorted((shared_dir / "data" / "logs" / "cases").glob("*.log"))
    if not logs:
        pytest.skip(f"needs the labelled logs, and there are none under {shared_dir}")
    engine = Engine(EngineConfig(signatures_cache_dir=signatures_cache))
    results = tmp_path_factory.mktemp("corpus") / "results.jsonl"
    with results.open("w") as out:
        for log in logs:
            answer = engine.analyze(LogPath(str(log), str(log.parent))).cycles[-1]
            out.write(json.dumps({"log_path": str(log), "attribution": answer.model_dump(mode="json")}) + "\n")
    command = [sys.executable, str(shared_dir / "tools" / "score.py"), str(shared_dir / "data" / "logs" / "labels.jsonl"), str(results)]
    done = subprocess.run([*command, "--strict", "--json"], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_decisions_on_the_labelled_logs_reach_the_bar(scores: dict[str, float]) -> None:
    assert scores["answered"] == 1.0
    assert scores["action_accuracy"] >= 0.93
    assert scores["action_balanced"] >= 0.90


def test_no_labelled_log_is_stopped_or_alarmed_wrongly(scores: dict[str, float]) -> None:
    assert scores["false_stop_rate"] == 0.0
    assert scores["false_alarm_rate"] == 0.0


def test_categories_and_root_lines_of_the_labelled_logs_reach_the_bar(scores: dict[str, float]) -> None:
    assert scores["category_macro_f1"] >= 0.85
    assert scores["root_line_hit1"] >= 0.90
    assert scores["root_line_any"] >= 0.97
