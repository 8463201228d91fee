"""A real Prometheus scrapes the service, and an alert fires when the service is gone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.tools.conftest import Running

RULES = Path(__file__).resolve().parent.parent.parent / "deploy" / "prometheus" / "alerts.yaml"


@pytest.fixture
def prometheus(tmp_path: Path, running: Running) -> Iterator[tuple[str, Running]]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs prometheus (Debian package)")
    rules = RULES.read_text()
    for pause in ("1m", "2m", "5m", "10m", "15m"):
        rules = rules.replace(f"for: {pause}", "for: 0s")
    (tmp_path / "alerts.yaml").write_text(rules)
    target = running.url.removeprefix("http://")
    (tmp_path / "prometheus.yaml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [alerts.yaml]\n"
        f"scrape_configs: [{{job_name: attr-actors, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}/api/v1", running
    process.terminate()
    process.wait(30)


def ask(url: str, **params: str) -> Any:
    with (
        suppress(urllib.error.URLError, ConnectionError),
        urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(params)}", timeout=5) as reply,
    ):
        return json.load(reply)["data"]
    return {}


def until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_the_service_is_scraped_and_its_absence_is_an_alert(prometheus: tuple[str, Running]) -> None:
    url, service = prometheus
    path = urllib.parse.quote(service.write("a.log"))
    with urllib.request.urlopen(f"{service.url}/logs?log_path={path}", timeout=60):
        pass

    def value(query: str) -> list[str]:
        return [sample["value"][1] for sample in ask(f"{url}/query", query=query).get("result", [])]

    def firing() -> set[str]:
        return {alert["labels"]["alertname"] for alert in ask(f"{url}/alerts").get("alerts", []) if alert["state"] == "firing"}

    until(lambda: value('sum(attr_http_requests_total{route="result",status="200"})') == ["1"], "the request is not seen")
    until(lambda: value("attr_health") == ["0"], "health is not seen")
    until(lambda: "AttrServiceDown" not in firing(), "the alert from before the first scrape stays")
    rules = ask(f"{url}/rules")["groups"]
    assert all(rule["health"] in ("ok", "unknown") for group in rules for rule in group["rules"])
    service.stop()
    until(lambda: "AttrServiceDown" in firing(), "the alert does not fire")
