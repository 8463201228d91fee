"""``nvrx-attrsvc snapshot``."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from attr_actors import cli
from tests.tools.conftest import Running


def test_the_archive_holds_what_the_service_says_and_no_secret(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "secret-value")
    monkeypatch.setenv("NVRX_ATTRSVC_ALLOWED_ROOT", str(running.root))
    archive = tmp_path / "state.tar.gz"
    assert cli.main(["snapshot", "--url", running.url, "--output", str(archive)]) == 0
    assert capsys.readouterr().out.strip() == str(archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as files:
        texts = {name: files.extractfile(name).read().decode() for name in files.getnames()}  # type: ignore[union-attr]
    assert json.loads(texts["health.json"])["status"] == "ok"
    assert "persistence" in json.loads(texts["stats.json"])
    assert "attr_health" in texts["metrics.txt"]
    assert json.loads(texts["about.json"])["faults"] == []
    assert "secret-value" not in "".join(texts.values())


def test_a_service_that_is_down_gives_an_archive_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "state.tar.gz"
    assert cli.main(["snapshot", "--url", "http://127.0.0.1:9", "--output", str(archive)]) == 3
    assert "/healthz?pretty=true: ConnectError" in capsys.readouterr().err
    with tarfile.open(archive) as files:
        assert set(files.getnames()) == {"about.json", "settings.json"}
