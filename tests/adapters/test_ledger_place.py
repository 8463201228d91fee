"""The ledger's files removed, moved or replaced under a running service: nothing is acknowledged that a restart would not find."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from attr_actors.adapters.ledger_db import LedgerDb
from attr_actors.adapters.ledger_upkeep import vacuum
from attr_actors.errors import LedgerFault
from tests.answers import recording

NOW = 1e9
BOTH = ("", "-wal")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@pytest.fixture
def db(path: str) -> Iterator[LedgerDb]:
    opened = LedgerDb(path)
    record(opened, "/before")
    yield opened
    opened.close()


def record(db: LedgerDb, *logs: str) -> None:
    db.record(tuple(recording(log) for log in logs), (), NOW)


def move(source: str, target: str) -> None:
    for part in BOTH:
        os.rename(source + part, target + part)


def in_a_copy(path: str, *logs: str) -> list[bool]:
    """Tell which logs are known to a ledger that starts on the files as a kill would leave them."""
    copy = f"{path}.after-a-kill"
    for part in BOTH:
        if os.path.exists(path + part):
            shutil.copy(path + part, copy + part)
    with contextlib.closing(LedgerDb(copy)) as db:
        return [db.lookup(log) is not None for log in logs]


@pytest.mark.parametrize("parts", [BOTH, ("",), ("", "-wal", ".lock"), (".lock",)])
def test_a_removed_file_refuses_what_a_restart_would_lose(
    db: LedgerDb, path: str, parts: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for part in parts:
        os.unlink(path + part)
    for _ in range(3):
        with pytest.raises(LedgerFault, match=r"was removed or .* restart the service"):
            record(db, "/after")
    assert db.lookup("/before") is not None, "reads go on"
    assert db.lookup("/after") is None
    assert db.file.is_failing()
    assert f"'{path}{parts[0]}'" in db.file.issues["place"]
    assert len(caplog.records) == 1
    db.close()
    with contextlib.closing(LedgerDb(path)) as again:
        record(again, "/after")
        assert again.file.issues == {}


def test_files_that_are_moved_back_are_written_on_and_nothing_acknowledged_is_lost(db: LedgerDb, path: str) -> None:
    move(path, path + ".away")
    with pytest.raises(LedgerFault):
        record(db, "/refused")
    db.file.look()
    move(path + ".away", path)
    record(db, "/after")
    assert db.file.issues == {}
    assert in_a_copy(path, "/before", "/refused", "/after") == [True, False, True]


def test_a_copy_put_in_the_place_is_neither_written_nor_harmed(db: LedgerDb, path: str) -> None:
    for part in BOTH:
        shutil.copy(path + part, path + ".saved" + part)
    record(db, "/later")
    move(path + ".saved", path)
    content = [Path(path + part).read_bytes() for part in BOTH]
    with pytest.raises(LedgerFault, match="replaced"):
        record(db, "/after")
    db.close()
    assert [Path(path + part).read_bytes() for part in BOTH] == content
    assert in_a_copy(path, "/before", "/later", "/after") == [True, False, False]


@pytest.mark.parametrize("look", [True, False])
def test_a_lost_write_ahead_log_is_folded_in_and_begun_anew(db: LedgerDb, path: str, look: bool) -> None:
    for n in range(50):
        record(db, f"/{n}")
    os.rename(path + "-wal", path + ".lost")
    if look:
        db.file.look()
        assert "-wal" in db.file.issues["place"]
    else:
        with pytest.raises(LedgerFault, match="-wal' was removed"):
            record(db, "/refused")
    assert in_a_copy(path, "/before", "/0", "/49", "/refused") == [True, True, True, False]
    record(db, "/after")
    assert db.file.issues == {}
    os.replace(path + ".lost", path + "-wal")
    db.file.look()
    record(db, "/and after")
    assert in_a_copy(path, "/before", "/49", "/after", "/and after") == [True] * 4


@pytest.mark.parametrize("other", [True, False])
def test_a_log_that_cannot_be_folded_in_is_not_given_up(db: LedgerDb, path: str, other: bool) -> None:
    os.unlink(path + "-wal")
    if other:
        Path(path + "-wal").touch()
    with db.file.reading() as connection:
        rows = connection.execute("SELECT 1 FROM analyses")  # An open query holds the checkpoint up.
        db.file.look()
        for _ in range(2):
            with pytest.raises(LedgerFault):
                record(db, "/refused")
        assert db.file.is_failing()
        rows.close()
    assert db.lookup("/before") is not None
    db.file.look()
    record(db, "/after")
    assert in_a_copy(path, "/before", "/refused", "/after") == [True, False, True]


def test_checkpoints_vacuum_and_a_shrunken_log_are_no_alarm(db: LedgerDb, caplog: pytest.LogCaptureFixture) -> None:
    with db.file.reading() as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 3")
        connection.execute("PRAGMA journal_size_limit = 0")
    for n in range(100):
        record(db, f"/{n}")
        db.file.look()
    vacuum(db)
    record(db, "/after")
    with db.file.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    record(db, "/and after")
    db.file.look()
    assert db.file.issues == {}
    assert not caplog.records
