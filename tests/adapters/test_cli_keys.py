"""``nvrx-attrsvc keys``."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from attr_actors.cli import main
from attr_actors.core.access import KeyRing, Scope, parse_keys


def test_a_new_key_is_shown_once_and_identifies_its_holder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    assert main(["keys", "new", "monitor", "--scope", "submit", "--root", str(tmp_path), "--file", str(file)]) == 0
    token = capsys.readouterr().out.strip()
    assert main(["keys", "new", "reader", "--file", str(file)]) == 0
    caller = KeyRing(parse_keys(file.read_text())).identify(token)
    assert (caller.name, caller.scopes, caller.root) == ("monitor", {Scope.SUBMIT}, str(tmp_path.resolve()))
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    capsys.readouterr()
    assert main(["keys", "list", "--file", str(file)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["monitor", "submit"], ["reader", "read,submit"]]


@pytest.mark.parametrize("arguments", [["new", "twice"], ["new", "x", "--root", "relative"]])
def test_a_wrong_key_changes_nothing(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    assert main(["keys", "new", "twice", "--file", str(file)]) == 0
    before = file.read_text()
    assert main(["keys", *arguments, "--file", str(file)]) == 2
    assert file.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["keys.json"]


def test_without_a_file_the_variable_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 2
    assert "NVRX_ATTRSVC_API_KEYS_FILE" in capsys.readouterr().err
