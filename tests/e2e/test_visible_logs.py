"""The labelled logs give the same bytes through batch, ``analyze --json`` and GET /logs."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.tools.conftest import Running, running
from tests.tools.test_batch import same_bytes

__all__ = ["running"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_visible_logs_have_the_same_bytes_everywhere(
    shared_dir: Path,
    running: Running,  # The fixture.
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = running.root / "visible"
    place.mkdir()
    paths = [place / log.name for log in sorted((shared_dir / "data" / "logs" / "cases").glob("*.log"))]
    for path in paths:
        path.write_bytes((shared_dir / "data" / "logs" / "cases" / path.name).read_bytes())
    assert len(paths) >= 80
    same_bytes(running, paths, tmp_path, capsys, httpx.get)
