"""The service with a real language model over HTTP: protocol, schema and grounding; never the model's opinion.

Needs ``LLM_URL`` (an OpenAI-compatible endpoint such as http://127.0.0.1:18910); ``LLM_URL_LARGE`` for a capable model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import OOM_LOG
from tests.e2e.conftest import Service, start_service, stop_service

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SETTINGS = {
    "LLM_API_KEY": "unused",
    "NVRX_ATTRSVC_LLM_MODEL": "local",
    "NVRX_ATTRSVC_LLM_CONTEXT_TOKENS": "8192",
    "NVRX_ATTRSVC_LLM_PROMPT_TOKENS_MAX": "2200",
    "NVRX_ATTRSVC_LLM_MAX_TOKENS": "500",
    "NVRX_ATTRSVC_LLM_CALL_TIMEOUT_S": "150",
    "NVRX_ATTRSVC_LLM_DEADLINE_S": "300",
    "NVRX_ATTRSVC_RATE_LIMIT_ANALYZE": "6000/minute",
}

Open = Callable[..., Service]


def endpoint(name: str) -> str:
    url = os.environ.get(name)
    if not url:
        pytest.skip(f"needs a model server; set {name}")
    return url.rstrip("/") + "/v1"


@pytest.fixture
def open_service(tmp_path: Path) -> Iterator[Open]:
    """Start the service with a model."""
    running: list[Service] = []
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")

    def start(url: str, **changes: str) -> Service:
        running.append(
            start_service(
                tmp_path, **(SETTINGS | {"NVRX_ATTRSVC_LLM_BASE_URL": url, "HOME": str(tmp_path), "XDG_CACHE_HOME": cache} | changes)
            )
        )
        return running[-1]

    yield start
    for service in running:
        stop_service(service)


def settled(service: Service, path: str, within_s: float) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Return the first answer, the one after the model has had its say, and how long the first one took."""
    began = time.monotonic()
    first = service.get(path).json()
    took_s = time.monotonic() - began
    until = began + within_s
    while True:
        body: dict[str, Any] = service.get(path).json()
        if body["attribution"].get("opinion") or "no second opinion" in (body.get("degraded") or ""):
            return first, body, took_s
        assert time.monotonic() < until, body
        time.sleep(0.5)


def check_grounding(service: Service, path: str, body: dict[str, Any]) -> None:
    """Every line that is cited stands in the file at its number."""
    lines = Path(path).read_text().split("\n")
    for line in [*body["attribution"]["root_lines"], *(body["attribution"]["opinion"] or {}).get("root_lines", [])]:
        assert line["text"].strip() in lines[line["line_number"] - 1]


def test_a_real_model_gives_an_opinion_in_the_schema_and_the_rules_do_not_wait(open_service: Open) -> None:
    service = open_service(endpoint("LLM_URL"))
    path = service.write("job.log", OOM_LOG)
    first, body, took_s = settled(service, path, 300)
    assert took_s < 5
    assert first["recommendation"]["source"] == "rules"
    assert body["recommendation"]["action"] == first["recommendation"]["action"]
    opinion = body["attribution"]["opinion"]
    assert opinion, body.get("degraded")
    assert opinion["model"] == "local"
    assert opinion["tokens_in"] > 300
    assert opinion["tokens_out"] > 10
    check_grounding(service, path, body)
    stats = service.client.get("/stats").json()["llm"]
    assert (stats["configured"], stats["answered"]) == (1, 1)
    assert stats["calls"] <= 2  # The answer, and perhaps its repair.
    print(
        {name: stats[name] for name in ("calls", "tokens", "latency_s")},
        {k: opinion[k] for k in ("action", "category", "dropped_citations")},
    )


def test_truncation_is_survived(open_service: Open) -> None:
    service = open_service(endpoint("LLM_URL"), NVRX_ATTRSVC_LLM_MAX_TOKENS="12")
    path = service.write("job.log", OOM_LOG)
    first, body, _ = settled(service, path, 300)
    assert "cut off" in body["degraded"]
    assert body["recommendation"] == first["recommendation"]


def test_look_ups_with_a_real_model_stay_bounded(open_service: Open) -> None:
    service = open_service(endpoint("LLM_URL"), NVRX_ATTRSVC_LLM_LOOKUPS_MAX="3")
    path = service.write("job.log", OOM_LOG)
    _, body, _ = settled(service, path, 500)
    stats = service.client.get("/stats").json()["llm"]
    assert stats["calls"] <= 5
    assert body["recommendation"]["action"] == "STOP"


def test_a_capable_model_cites_lines_that_exist(open_service: Open) -> None:
    service = open_service(endpoint("LLM_URL_LARGE"))
    path = service.write("job.log", OOM_LOG)
    _, body, _ = settled(service, path, 400)
    opinion = body["attribution"]["opinion"]
    assert opinion, body.get("degraded")
    check_grounding(service, path, body)
    print(opinion)
