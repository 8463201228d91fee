"""The ledger on a real SQLite file: what is stored, replaced, evicted, owed; and what happens to bad files and full disks."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attr_actors.adapters import ledger_schema
from attr_actors.adapters.ledger_db import LedgerDb
from attr_actors.adapters.ledger_schema import SCHEMA_VERSION
from attr_actors.errors import InvalidPath, LedgerFault
from attr_actors.models import Action, Outcome, Snapshot
from tests.answers import analysis, attribution, recording

SINKS = ("elasticsearch", "slack")
NOW = 1e9


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "ledger.db")


@pytest.fixture
def db(path: str) -> Iterator[LedgerDb]:
    opened = LedgerDb(path)
    yield opened
    opened.close()


def owed(db: LedgerDb, sink: str = "elasticsearch", now: float = NOW) -> list[tuple[str, int, Action]]:
    """Lease and at once give back everything of a sink."""
    leased = db.lease(sink, 1000, 0.0, now)
    return [(d.entry.snapshot.path, d.entry.wl_restart, d.entry.attribution.action) for d in leased]


def done(*ids: int, receipt: str | None = None) -> tuple[Outcome, ...]:
    return tuple(Outcome(delivery_id=i, state="done", receipt=receipt) for i in ids)


def test_lookup_returns_the_analysis_that_was_recorded_with_all_its_cycles(db: LedgerDb) -> None:
    stored = recording("/logs/a", attribution(), attribution(Action.RESTART), attribution(Action.CONTINUE))
    db.record((stored, recording("/logs/b")), SINKS, NOW)
    assert db.lookup("/logs/a") == stored.analysis
    assert db.lookup("/logs/b") == recording("/logs/b").analysis
    assert db.lookup("/logs/c") is None


def test_many_paths_are_looked_up_in_their_order(db: LedgerDb) -> None:
    stored = recording("/logs/a", attribution(), attribution(Action.RESTART))
    db.record((stored, recording("/logs/b")), SINKS, NOW)
    paths = ("/logs/b", "/none", "/logs/\udcff", "/logs/a", "/logs/b")
    assert db.lookup_many(paths) == tuple(db.lookup(path) for path in paths)
    assert db.lookup_many(paths)[3] == stored.analysis
    assert db.lookup_many(()) == ()


def test_newest_analysis_of_a_path_is_found_whatever_its_snapshot_and_engine(db: LedgerDb) -> None:
    for more in ({"size": 1}, {"size": 2}, {"engine": "e2"}, {"size": 1}):
        db.record((recording(**more),), (), NOW)
        assert db.lookup("/logs/a.log") == analysis(**more)
    assert db.counts((), NOW)["persistence.analyses"] == 3


def test_recording_the_same_key_again_overwrites_in_place(db: LedgerDb) -> None:
    db.record((recording("/a", attribution(degraded="model down"), attribution()),), (), NOW)
    better = recording("/a", attribution(source="model"), at=2e9)
    db.record((better,), (), NOW)
    assert db.lookup("/a") == better.analysis
    assert db.counts((), NOW)["persistence.entries"] == 1


def test_everything_is_there_after_reopening(path: str) -> None:
    first = LedgerDb(path)
    first.record((recording(),), SINKS, NOW)
    first.save_jobs((("/a", "{}"),), ())
    first.begin_attempt(Snapshot(path="/a", size=1, mtime_ns=1), "e", NOW)
    counts = first.counts(SINKS, NOW)
    first.close()
    again = LedgerDb(path)
    assert again.counts(SINKS, NOW) == counts
    assert again.lookup("/logs/a.log") == analysis()
    again.close()


def test_attempts_count_from_one_until_the_analysis_is_recorded(db: LedgerDb) -> None:
    seen = analysis("/a").snapshot
    assert [db.begin_attempt(seen, "e1", NOW) for _ in range(3)] == [1, 2, 3]
    assert db.begin_attempt(seen, "e2", NOW) == 1
    assert db.begin_attempt(seen.model_copy(update={"size": 1}), "e1", NOW) == 1
    db.record((recording("/a"),), (), NOW)
    assert db.begin_attempt(seen, "e1", NOW) == 1
    assert db.begin_attempt(seen, "e2", NOW) == 2


def test_jobs_come_back_in_pages_in_path_order(db: LedgerDb) -> None:
    db.save_jobs(tuple((f"/{n}", f"job {n}") for n in (3, 1, 2)), ())
    assert db.load_jobs("", 2) == ("job 1", "job 2")
    assert db.load_jobs("/2", 2) == ("job 3",)
    db.save_jobs((("/1", "changed"),), ("/3", "/unknown"))
    assert db.load_jobs("", 9) == ("changed", "job 2")


def test_each_new_entry_is_owed_to_the_sinks_configured_at_the_time(db: LedgerDb) -> None:
    db.record((recording("/early"),), (), NOW)
    db.record((recording("/a", attribution(Action.RESTART), attribution()),), SINKS, NOW)
    assert owed(db) == [("/a", 0, Action.RESTART), ("/a", 1, Action.STOP)]
    assert owed(db, "slack") == [("/a", 1, Action.STOP)]


def test_unchanged_answer_is_not_owed_again_and_a_changed_one_is(db: LedgerDb) -> None:
    db.record((recording(),), SINKS, NOW)
    db.settle(done(*(d.delivery_id for s in SINKS for d in db.lease(s, 9, 60, NOW))), NOW)
    db.record((recording(at=2e9),), SINKS, NOW)
    assert owed(db) == owed(db, "slack") == []
    db.record((recording("/logs/a.log", attribution(source="model")),), SINKS, NOW)
    assert len(owed(db)) == 1
    assert owed(db, "slack") == []


def test_change_during_a_delivery_survives_its_settling(db: LedgerDb) -> None:
    db.record((recording(),), SINKS, NOW)
    (old,) = db.lease("elasticsearch", 9, 60, NOW)
    db.record((recording("/logs/a.log", attribution(Action.RESTART)),), SINKS, NOW)
    db.settle(done(old.delivery_id), NOW)
    assert owed(db) == [("/logs/a.log", 0, Action.RESTART)]


def test_stop_that_becomes_a_restart_before_slack_heard_of_it_is_withdrawn(db: LedgerDb) -> None:
    db.record((recording(),), SINKS, NOW)
    db.record((recording("/logs/a.log", attribution(Action.RESTART)),), SINKS, NOW)
    assert owed(db, "slack") == []


def test_leased_delivery_is_due_again_only_after_the_lease(db: LedgerDb) -> None:
    db.record((recording(),), SINKS, NOW)
    assert [d.attempts for d in db.lease("slack", 9, 60, NOW)] == [1]
    assert db.lease("slack", 9, 60, NOW + 59) == ()
    assert [d.attempts for d in db.lease("slack", 9, 60, NOW + 60)] == [2]


def test_delivery_tried_again_waits_for_its_delay_and_a_parked_one_for_ever(db: LedgerDb) -> None:
    db.record((recording("/a"), recording("/b")), ("slack",), NOW)
    one, two = db.lease("slack", 9, 60, NOW)
    db.settle(
        (
            Outcome(delivery_id=one.delivery_id, state="retry", reason="busy", delay_s=5),
            Outcome(delivery_id=two.delivery_id, state="parked", reason="refused"),
        ),
        NOW,
    )
    assert db.lease("slack", 9, 60, NOW + 4.9) == ()
    assert [d.entry.snapshot.path for d in db.lease("slack", 9, 60, NOW + 10**6)] == ["/a"]
    counts = db.counts(("slack",), NOW + 7)
    assert (counts["outbox.slack.leased"], counts["outbox.slack.parked"], counts["outbox.slack.oldest_s"]) == (1, 1, 7)


def test_lease_is_oldest_first_and_bounded(db: LedgerDb) -> None:
    for n in range(5):
        db.record((recording(f"/{n}"),), ("slack",), NOW + n)
    assert [d.entry.snapshot.path for d in db.lease("slack", 3, 60, NOW + 9)] == ["/0", "/1", "/2"]


def test_receipt_of_the_first_message_comes_with_later_deliveries_of_the_same_job_and_cause(db: LedgerDb) -> None:
    db.record((recording("/a"), recording("/b"), recording("/c", job_id="other")), ("slack",), NOW)
    first = db.lease("slack", 1, 60, NOW)[0]
    assert first.receipt is None
    db.settle(done(first.delivery_id, receipt="171.1"), NOW)
    assert [(d.entry.snapshot.path, d.receipt) for d in db.lease("slack", 9, 60, NOW)] == [("/b", "171.1"), ("/c", None)]


def test_refresh_by_nobody_keeps_the_names_of_the_requester(db: LedgerDb) -> None:
    db.record((recording(),), ("elasticsearch",), NOW)
    db.record((recording("/logs/a.log", attribution(source="model"), user="unknown", job_id=None),), ("elasticsearch",), NOW)
    (delivery,) = db.lease("elasticsearch", 9, 60, NOW)
    assert (delivery.entry.requester.user, delivery.entry.requester.job_id) == ("ada", "4711")
    assert delivery.entry.attribution.source == "model"


def test_old_and_superseded_entries_are_evicted_once_their_deliveries_are_done(db: LedgerDb) -> None:
    old, young = int((NOW - 100) * 1e9), int(NOW * 1e9)
    db.record((recording("/old", mtime_ns=old), recording("/grown", size=1, mtime_ns=young)), ("slack",), NOW)
    db.record((recording("/grown", size=2, mtime_ns=young), recording("/young", mtime_ns=young)), (), NOW)

    def sweep(now: float) -> dict[str, int]:
        return db.sweep(now, age_max_s=50, grace_s=10, keep_max_s=1000)

    def counted(*numbers: int) -> dict[str, int]:
        return dict(zip(("outbox.dropped", "cleanup.cache_expired", "cleanup.cache_superseded"), numbers, strict=True))

    assert sweep(NOW + 1) == counted(0, 0, 0)
    assert sweep(NOW + 11.5) == counted(0, 0, 0)
    db.settle(done(*(d.delivery_id for d in db.lease("slack", 9, 60, NOW))), NOW)
    assert sweep(NOW + 15) == {}
    assert sweep(NOW + 22) == counted(0, 1, 1)
    assert db.lookup("/old") is None
    assert db.lookup("/grown") == analysis("/grown", size=2, mtime_ns=young)
    assert db.lookup("/young") is not None


def test_delivery_that_nobody_took_for_too_long_is_dropped_and_counted(db: LedgerDb) -> None:
    db.record((recording(),), SINKS, NOW)
    assert db.sweep(NOW + 1001, age_max_s=1e9, grace_s=10, keep_max_s=1000)["outbox.dropped"] == 2


def test_path_that_is_not_utf8_is_refused_by_name_and_changes_nothing(db: LedgerDb) -> None:
    with pytest.raises(InvalidPath):
        db.record((recording("/fine"), recording("/logs/\udcff")), SINKS, NOW)
    assert db.lookup("/fine") is None
    assert db.lookup("/logs/\udcff") is None


def test_second_ledger_on_the_same_file_is_refused_and_names_the_first(db: LedgerDb, path: str) -> None:
    with pytest.raises(LedgerFault, match=f"in use by process {os.getpid()}"):
        LedgerDb(path)
    db.record((recording(),), (), NOW)


def test_ledger_that_lost_its_ownership_writes_no_more(db: LedgerDb, path: str) -> None:
    db.record((recording("/before"),), (), NOW)
    Path(path + ".lock").write_text('{"token": "of another"}')
    with pytest.raises(LedgerFault, match="took over"):
        db.record((recording("/after"),), (), NOW)
    assert db.lookup("/after") is None
    assert db.lookup("/before") is not None
    assert any("took over" in issue for issue in db.file.issues.values())


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_file_that_is_no_database_is_set_aside_loudly(path: str, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    Path(path).parent.mkdir()
    Path(path).write_bytes(content)
    db = LedgerDb(path)
    db.record((recording(),), (), NOW)
    assert db.lookup("/logs/a.log") is not None
    aside = [p for p in Path(path).parent.iterdir() if ".corrupt-" in p.name]
    assert [p.read_bytes() for p in aside] == [content]
    assert "set aside" in caplog.text
    assert aside[0].name in db.file.issues["corrupt"]
    db.close()


def test_damage_met_while_running_sets_the_file_aside_and_goes_on(path: str, caplog: pytest.LogCaptureFixture) -> None:
    first = LedgerDb(path)
    for n in range(200):
        first.record((recording(f"/{n}"),), (), NOW)
    first.close()
    with open(path, "r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 40)
    db = LedgerDb(path)
    with pytest.raises(LedgerFault, match="set aside"):
        db.record(tuple(recording(f"/{n}") for n in range(200)), (), NOW)
    db.record((recording(),), (), NOW)
    assert db.lookup("/logs/a.log") is not None
    assert "set aside" in caplog.text
    db.close()


def test_an_older_file_is_brought_forward_in_one_step_or_not_at_all(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = LedgerDb(path)
    db.record((recording(),), (), 0.0)
    db.close()
    steps = ("CREATE TABLE extra (a TEXT);", "ALTER TABLE extra ADD COLUMN b TEXT;")
    monkeypatch.setattr(ledger_schema, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(ledger_schema, "MIGRATIONS", (steps[0], "NOT SQL;"))
    with pytest.raises((sqlite3.Error, LedgerFault)):
        LedgerDb(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'extra'").fetchall()
    monkeypatch.setattr(ledger_schema, "MIGRATIONS", steps)
    moved = LedgerDb(path)
    assert moved.lookup(recording().analysis.snapshot.path) == recording().analysis
    moved.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        assert [row[1] for row in connection.execute("PRAGMA table_info(extra)")] == ["a", "b"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [(f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "schema 2"), ("PRAGMA application_id = 1", "another program")],
)
def test_unknown_schema_refuses_to_start_and_leaves_the_file_alone(path: str, statement: str, message: str) -> None:
    LedgerDb(path).close()
    other = sqlite3.connect(path)
    other.execute(statement)
    other.close()
    content = Path(path).read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerFault, match=message):
            LedgerDb(path)
    assert Path(path).read_bytes() == content


def test_full_disk_is_reported_while_reads_go_on_and_forgotten_when_there_is_room(db: LedgerDb) -> None:
    db.record((recording(),), (), NOW)
    pages = db.file._connection.execute("PRAGMA page_count").fetchone()[0]
    db.file._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerFault, match="full"):
        db.record(tuple(recording(f"/{n}") for n in range(100)), SINKS, NOW)
    assert "full" in db.file.issues["write"]
    assert db.lookup("/logs/a.log") is not None
    assert db.counts(SINKS, NOW)["persistence.entries"] == 1
    db.file._connection.execute("PRAGMA max_page_count = 1000000")
    db.record((recording("/b"),), (), NOW)
    assert db.file.issues == {}


def test_an_outage_is_logged_once_with_the_file_and_so_is_its_end(db: LedgerDb, path: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        caplog.clear()
        db.file._connection.execute("PRAGMA query_only = 1")
        for _ in range(3):
            with pytest.raises(LedgerFault, match=f"'{path}' cannot be written"):
                db.record((recording(),), (), NOW)
        db.file._connection.execute("PRAGMA query_only = 0")
        db.record((recording(),), (), NOW)
        (begin, end) = caplog.records
        assert (begin.levelname, end.levelname) == ("ERROR", "WARNING")
        assert path in begin.getMessage()
        assert "can be written again" in end.getMessage()


def test_read_only_file_is_reported_while_reads_go_on(db: LedgerDb) -> None:
    db.record((recording(),), (), NOW)
    db.file._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(LedgerFault, match="readonly"):
        db.save_jobs((("/a", "{}"),), ())
    assert "readonly" in db.file.issues["write"]
    assert db.lookup("/logs/a.log") is not None


def test_file_that_cannot_be_made_is_an_operators_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerFault, match="cannot open"):
        LedgerDb(str(tmp_path / "file" / "ledger.db"))


@pytest.mark.parametrize("content", ["garbage" * 1000, '{"version": 1, "entries": []}'])
def test_a_file_that_cannot_be_set_aside_is_an_operators_fault(path: str, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(path).parent.mkdir()
    Path(path).write_text(content)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(LedgerFault, match="Permission denied"):
        LedgerDb(path)


def test_ledger_is_for_its_owner_alone(db: LedgerDb, path: str) -> None:
    db.record((recording(),), (), NOW)
    modes = {found.name: oct(found.stat().st_mode & 0o777) for found in Path(path).parent.iterdir()}
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db.lock"), "0o600")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(db: LedgerDb) -> int:
    """Record until the disk is full; return how many answers were acknowledged."""
    acknowledged = 0
    with contextlib.suppress(LedgerFault):
        for number in range(10_000):
            db.record((recording(f"/{number}"),), SINKS, NOW)
            acknowledged = number + 1
    return acknowledged


def test_really_full_disk_loses_nothing_acknowledged_and_heals(small_disk: Path) -> None:
    with contextlib.closing(LedgerDb(str(small_disk / "ledger.db"))) as db:
        acknowledged = fill(db)
        assert acknowledged > 20
        assert "full" in db.file.issues["write"] or "I/O" in db.file.issues["write"]
        assert all(db.lookup(f"/{number}") for number in range(acknowledged))
        assert db.lookup(f"/{acknowledged}") is None
    with contextlib.closing(LedgerDb(str(small_disk / "ledger.db"))) as again:
        assert all(again.lookup(f"/{number}") for number in range(acknowledged)), "also after a restart on the full disk"
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        again.record((recording("/room"),), SINKS, NOW)
        assert again.file.issues == {}
