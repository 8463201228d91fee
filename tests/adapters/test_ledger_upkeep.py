"""Import, export, verify, vacuum and the outbox, through the command line where an operator uses it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from attr_actors.actors.ledger import Ledger
from attr_actors.adapters.ledger_db import LedgerDb
from attr_actors.adapters.ledger_upkeep import export_json, import_json
from attr_actors.cli import main
from attr_actors.core.rendering import render_cycle_text
from attr_actors.errors import LedgerFault, LedgerInUse
from attr_actors.models import Action, Outcome
from tests.answers import attribution, recording
from tests.ledgers import settings

NOW = time.time()
DAY = 86400.0
ANSWER = render_cycle_text(attribution())


def write_log(path: Path, age_s: float = 60.0) -> os.stat_result:
    path.write_text("x" * random.Random(path.name).randrange(1, 2000))
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path.stat()


def entry(path: Path, found: os.stat_result, **more: Any) -> dict[str, Any]:
    result = {"module": "log_analyzer", "state": "complete", "result_id": "ab" * 32, "result": [[ANSWER, {"action": "STOP"}]]}
    return {"key": str(path), "result": result, "file_mtime": found.st_mtime, "file_size": found.st_size, **more}


def predecessor_file(logs: Path, count: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a ledger of ``count`` entries of all kinds and what is to become of them."""
    expected = dict.fromkeys(
        ("imported", "import_skipped_changed", "import_skipped_old_file", "import_skipped_broken", "import_skipped_known"), 0
    )
    entries: list[Any] = []
    for number in range(count):
        path = logs / f"{number}.log"
        found = write_log(path, 20 * DAY if number % 10 == 1 else 60.0)
        good = entry(path, found)
        kind = number % 10
        if kind == 1:
            expected["import_skipped_old_file"] += 1
        elif kind == 2:
            path.unlink()
        elif kind == 3:
            path.write_text("it grew" * 1000)
        elif kind == 4:
            good.pop("file_size")
        elif kind == 5:
            broken: list[Any] = [
                {**good, "result": {"result": 7}},
                None,
                {**good, "key": 5},
                {**good, "key": "/etc/passwd"},
                {**good, "key": "relative"},
                {**good, "result": {**good["result"], "result": [["LLM FAILURE", {}]]}},
                {**good, "result": {**good["result"], "result": [["\ud800" + ANSWER, {}]]}},
            ]
            good = broken[number // 10 % len(broken)]
            expected["import_skipped_broken"] += 1
        expected["import_skipped_changed"] += kind in (2, 3, 4)
        expected["imported"] += kind in (0, 6, 7, 8, 9)
        entries.append(good)
    return {"version": 1, "entries": entries}, expected


def test_predecessors_file_under_our_name_is_imported_with_exact_counts_and_kept_aside(tmp_path: Path) -> None:
    content, expected = predecessor_file(tmp_path, 1000)
    place = tmp_path / "ledger.db"
    place.write_text(json.dumps(content))
    ledger = Ledger(settings(tmp_path, dataflow_index="i"))
    counts = ledger.stats().counts
    assert {name: counts[f"persistence.{name}"] for name in expected} == expected
    assert counts["persistence.entries"] == expected["imported"]
    assert ledger.lease("elasticsearch", 10, 60) == (), "imported answers were sent by the predecessor"
    found = ledger.lookup(str(tmp_path / "0.log"))
    assert found is not None
    assert render_cycle_text(found.cycles[0]) == ANSWER
    ledger.close()
    (aside,) = tmp_path.glob("ledger.db.imported-*")
    assert json.loads(aside.read_text()) == content
    again = Ledger(settings(tmp_path))
    assert "persistence.imported" not in again.stats().counts
    again.close()


def test_crash_in_the_middle_of_the_import_is_made_good_by_the_next_start(tmp_path: Path) -> None:
    content, expected = predecessor_file(tmp_path, 50)
    (tmp_path / "ledger.db").write_text(json.dumps(content))
    LedgerDb(str(tmp_path / "ledger.db")).close()
    assert (tmp_path / "ledger.db.importing").exists()
    ledger = Ledger(settings(tmp_path))
    assert ledger.stats().counts["persistence.imported"] == expected["imported"]
    ledger.close()


@pytest.mark.parametrize("content", ['{"version":1,"entries":[{"key"', '{"version":2,"entries":[]}', '{"entries":7,"version":1}', "{}"])
def test_json_that_is_no_ledger_is_set_aside_loudly(tmp_path: Path, content: str) -> None:
    (tmp_path / "ledger.db").write_text(content)
    ledger = Ledger(settings(tmp_path))
    assert "set aside" in ledger.health().issues[0]
    ledger.record((recording(),))
    ledger.close()
    (aside,) = tmp_path.glob("ledger.db.corrupt-*")
    assert aside.read_text() == content


def test_export_and_import_are_a_round_trip(tmp_path: Path) -> None:
    first, second = LedgerDb(str(tmp_path / "1.db")), LedgerDb(str(tmp_path / "2.db"))
    stored = []
    for number in range(250):
        path = tmp_path / f"{number}.log"
        found = write_log(path)
        cycles = (attribution(), attribution(Action.RESTART))[: number % 2 + 1]
        stored.append(recording(str(path), *cycles, size=found.st_size, mtime_ns=found.st_mtime_ns, at=NOW))
    first.record(tuple(stored), (), NOW)
    assert export_json(first, str(tmp_path / "a.json")) == 250
    counts = import_json(second, str(tmp_path / "a.json"), str(tmp_path), NOW, 14 * DAY)
    assert counts["imported"] == 250
    assert sum(counts.values()) == 250
    assert list(second.recordings()) == list(first.recordings()) == sorted(stored, key=lambda r: r.analysis.snapshot.path)
    export_json(second, str(tmp_path / "b.json"))
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    again = import_json(second, str(tmp_path / "b.json"), str(tmp_path), NOW, 14 * DAY)
    assert (again["imported"], again["import_skipped_known"]) == (0, 250)
    first.close()
    second.close()


@pytest.fixture
def parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with an entry, three parked deliveries and one that waits, and the settings to find it."""
    for name, value in {
        "ALLOWED_ROOT": tmp_path,
        "CACHE_FILE": tmp_path / "ledger.db",
        "DATAFLOW_INDEX": "i",
        "EXPORT_URL": "http://h/",
    }.items():
        monkeypatch.setenv(f"NVRX_ATTRSVC_{name}", str(value))
    db = LedgerDb(str(tmp_path / "ledger.db"))
    db.record((recording("/a"), recording("/b")), ("elasticsearch", "webhook"), NOW)
    leased = db.lease("elasticsearch", 9, 60, NOW) + db.lease("webhook", 1, 60, NOW)
    db.settle(tuple(Outcome(delivery_id=d.delivery_id, state="parked", reason="400 mapping") for d in leased), NOW)
    db.close()
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["outbox", "list", "--json", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_outbox_is_listed_by_sink_and_state(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(listed(capsys)) == 4
    assert [row["path"] for row in listed(capsys, "--sink", "elasticsearch")] == ["/a", "/b"]
    (waiting,) = listed(capsys, "--state", "waiting")
    assert (waiting["sink"], waiting["attempts"], waiting["reason"]) == ("webhook", 0, "")
    assert main(["outbox", "list", "--state", "parked"]) == 0
    assert "400 mapping" in capsys.readouterr().out


def test_parked_deliveries_are_retried_by_number_or_all(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = listed(capsys, "--state", "parked")[0]["delivery_id"]
    assert main(["outbox", "retry", str(number)]) == 0
    assert "1 deliveries are due again" in capsys.readouterr().out
    assert len(listed(capsys, "--state", "parked")) == 2
    assert main(["outbox", "retry", "--all", "--sink", "webhook"]) == 0
    assert [row["sink"] for row in listed(capsys, "--state", "parked")] == ["elasticsearch"]


def test_parked_deliveries_are_dropped_by_number_or_all(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outbox", "drop", "--all"]) == 0
    assert [row["state"] for row in listed(capsys)] == ["waiting"]
    assert main(["outbox", "drop", str(listed(capsys)[0]["delivery_id"])]) == 0
    assert listed(capsys) == []


@pytest.mark.parametrize("arguments", [["outbox", "retry"], ["outbox", "drop", "3", "--all"], ["outbox", "backfill", "slack"]])
def test_unclear_wish_is_refused(parked: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    before = listed(capsys)
    assert main(arguments) == 2
    assert listed(capsys) == [{**row, "age_s": pytest.approx(row["age_s"], abs=60)} for row in before]


def test_backfill_owes_a_new_sink_what_was_stored_before(
    parked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "t")
    monkeypatch.setenv("SLACK_CHANNEL", "c")
    for expected in (2, 0):
        assert main(["outbox", "backfill", "slack"]) == 0
        assert f"{expected} deliveries are owed to slack" in capsys.readouterr().out


def test_commands_on_the_ledger_of_a_running_service_say_so_and_change_nothing(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = LedgerDb(str(parked / "ledger.db"))
    for arguments in (["outbox", "list"], ["outbox", "drop", "--all"], ["ledger", "verify"], ["ledger", "vacuum"]):
        assert main(arguments) == 1
        assert "stop it first" in capsys.readouterr().err
    running.close()
    assert len(listed(capsys)) == 4


def test_ledger_commands_export_import_verify_and_vacuum(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "export", str(parked / "out.json")]) == 0
    assert "exported 2 answers" in capsys.readouterr().out
    assert main(["ledger", "import", str(parked / "out.json")]) == 0
    assert "import skipped old file: 2" in capsys.readouterr().out
    assert main(["ledger", "verify"]) == 0
    assert "2 entries of 2 logs: no problems" in capsys.readouterr().out
    assert main(["ledger", "vacuum"]) == 0
    assert main(["ledger", "import", "/nowhere"]) == 1


def test_verify_finds_damage(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = sqlite3.connect(parked / "ledger.db")
    damaged.execute("UPDATE entries SET attribution = '{}' WHERE id = 1")
    damaged.commit()
    damaged.close()
    assert main(["ledger", "verify"]) == 1
    told = capsys.readouterr().out
    assert "the answer of '/a' cannot be read" in told
    assert "would start with it" in told


def everything(place: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns) for p in (place, *place.iterdir())}


LOOKS = (["ledger", "verify"], ["outbox", "list"], ["ledger", "export", "../export.json"])


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"garbage" * 1000, "sets the file aside"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "sets the file aside"),
        (b'{"version": 1, "entries": []}', "takes it over at its next start"),
        (b"", "begins one at its next start"),
        (None, "begins one at its next start"),
    ],
)
def test_a_look_tells_what_the_next_start_would_do_and_does_not_do_it(
    parked: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, told: str, look: list[str]
) -> None:
    place = parked / "ledger.db"
    place.unlink() if content is None else place.write_bytes(content)
    before = everything(parked)
    assert main(look) == 1
    assert told in capsys.readouterr().err
    assert everything(parked) == before


def test_verify_of_a_ledger_with_damaged_pages_changes_nothing(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(parked / "ledger.db", "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 40)
    before = everything(parked)
    assert main(["ledger", "verify"]) == 1
    assert "sets the file aside" in capsys.readouterr().err
    assert everything(parked) == before


def test_looks_at_the_ledger_of_a_killed_service_see_all_and_change_nothing(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = LedgerDb(str(parked / "ledger.db"))
    running.record((recording("/c"),), ("webhook",), NOW)
    (parked / "killed").mkdir()
    for part in ("", "-wal"):
        shutil.copy(parked / f"ledger.db{part}", parked / "killed")
    running.close()
    for file in (parked / "killed").iterdir():
        os.replace(file, parked / file.name)
    before = everything(parked)
    assert main(["ledger", "verify"]) == 0
    assert "3 entries of 3 logs: no problems" in capsys.readouterr().out
    assert "/c" in [row["path"] for row in listed(capsys)]
    assert main(["ledger", "export", "../export.json"]) == 0
    assert everything(parked) == before


def test_an_export_takes_no_devices_place(parked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(parked / "pipe")
    assert main(["ledger", "export", str(parked / "pipe")]) == 1
    assert "not a regular file" in capsys.readouterr().err
    assert stat.S_ISFIFO(os.stat(parked / "pipe").st_mode)


def test_a_service_that_starts_during_a_look_waits_for_its_end(parked: Path) -> None:
    look, second = (LedgerDb(str(parked / "ledger.db"), at_rest=True) for _ in range(2))
    second.close()
    with pytest.raises(LedgerInUse):
        LedgerDb(str(parked / "ledger.db"))
    with pytest.raises(LedgerFault, match="readonly"):
        look.save_jobs((("/a", "{}"),), ())
    look.close()
    LedgerDb(str(parked / "ledger.db")).close()


def test_vacuum_gives_back_what_eviction_freed(tmp_path: Path) -> None:
    from attr_actors.adapters.ledger_upkeep import vacuum

    db = LedgerDb(str(tmp_path / "ledger.db"))
    db.record(tuple(recording(f"/{n}", mtime_ns=10**18) for n in range(400)), (), NOW)
    db.record((recording("/young", mtime_ns=int(NOW * 1e9)),), (), NOW)
    assert db.sweep(NOW + 700, 14 * DAY, 600, 1e9)["cleanup.cache_expired"] == 400
    before, after = vacuum(db)
    assert after < before / 3
    assert db.lookup("/young") is not None
    db.close()
