"""What all test layers share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("patient", deadline=None)  # A busy machine is no failure.
hypothesis.settings.load_profile("patient")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The directory of design documents, labelled logs and real backends; tests that need it are skipped without it."""
    place = Path(os.environ.get("ATTR_ACTORS_SHARED", REPO.parent / "shared")).resolve()
    if not place.is_dir():
        pytest.skip(f"needs the shared directory, and there is none at {place} (set ATTR_ACTORS_SHARED)")
    return place


@pytest.fixture(autouse=True)
def _fast_layers_never_start_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    layer = Path(str(request.node.path)).relative_to(REPO / "tests").parts[0]
    if layer in ("cluster", "e2e"):
        yield
        return
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)  # Whom to trust is read for each client, which takes longer than most tests.
    yield
    ray = sys.modules.get("ray")  # Importing it here would cost more than most tests.
    assert ray is None or not ray.is_initialized(), "a fast test must not start Ray"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("NVRX_") or name.startswith(("NVIDIA_API_KEY", "LLM_API_KEY", "SLACK_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
