"""The alert rules and the dashboard: they ask for figures that exist, and the rules fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from attr_actors.core.exposition import METRICS, render_exposition

REPO = Path(__file__).resolve().parent.parent.parent
RULES = REPO / "deploy" / "prometheus"
HISTOGRAM = {f"attr_http_request_seconds_{part}" for part in ("bucket", "sum", "count")}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool (Debian package prometheus)")
    return found


@pytest.mark.parametrize("path", [RULES / "alerts.yaml", REPO / "deploy" / "grafana" / "attr-actors.json"], ids=lambda p: p.name)
def test_every_figure_that_is_asked_for_is_shown_by_the_service(path: Path) -> None:
    text = path.read_text()
    asked = set(re.findall(r"\battr_[a-z_]+\b", text))
    assert asked
    assert asked <= {metric.name for metric in METRICS} | HISTOGRAM


def test_the_dashboard_is_json_with_a_query_in_each_panel() -> None:
    dashboard = json.loads((REPO / "deploy" / "grafana" / "attr-actors.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_the_rules_are_valid_and_each_fires_when_it_should(promtool: str) -> None:
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"], ["check", "config", "prometheus.yaml"]):
        done = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_what_the_service_shows(promtool: str) -> None:
    counters = {metric.pattern.replace("*", "x"): 1.5 for metric in METRICS} | {"http_seconds.result.0": 1, "odd.thing": 2}
    done = subprocess.run(
        [promtool, "check", "metrics"], input=render_exposition(counters, (0.1, 1.0)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
