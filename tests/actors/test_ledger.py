"""The ledger actor: the same calls as its handle, durable when they return."""

from __future__ import annotations

import inspect
import os
import sqlite3
import time
from pathlib import Path

import pytest

from attr_actors.actors.ledger import AWAY_S, LOOK_EVERY_S, Ledger
from attr_actors.adapters.ledger_lock import REQUEST_AGE_MAX_S
from attr_actors.errors import LedgerFault, LedgerTakenOver
from attr_actors.handles import LedgerHandle
from tests.answers import analysis, attribution, recording
from tests.ledgers import settings


def test_ledger_has_every_method_of_its_handle_with_the_same_arguments() -> None:
    promised = {n: f for n, f in vars(LedgerHandle).items() if inspect.iscoroutinefunction(f)}
    assert promised
    for name, method in promised.items():
        own = getattr(Ledger, name)
        assert not inspect.iscoroutinefunction(own)
        assert list(inspect.signature(own).parameters) == list(inspect.signature(method).parameters), name


def test_new_ledger_on_the_file_of_a_dead_one_has_everything(tmp_path: Path) -> None:
    first = Ledger(settings(tmp_path, dataflow_index="i"))
    first.record((recording(),))
    first.close()
    second = Ledger(settings(tmp_path, dataflow_index="i"))
    assert second.lookup("/logs/a.log") == analysis()
    assert len(second.lease("elasticsearch", 10, 60)) == 1
    second.close()


def test_sink_configured_later_gets_new_answers_only(tmp_path: Path) -> None:
    first = Ledger(settings(tmp_path))
    first.record((recording("/early"),))
    first.close()
    second = Ledger(settings(tmp_path, export_url="http://127.0.0.1:1/", slack_bot_token="t", slack_channel="c"))
    second.record((recording("/early"), recording("/late")))
    assert [d.entry.snapshot.path for d in second.lease("webhook", 10, 60)] == ["/late"]
    assert [d.entry.snapshot.path for d in second.lease("slack", 10, 60)] == ["/late"]
    assert second.lease("elasticsearch", 10, 60) == ()
    second.close()


def test_stats_count_rows_deliveries_and_lookups(tmp_path: Path) -> None:
    now = 1e9
    ledger = Ledger(settings(tmp_path, dataflow_index="i"), lambda: now)
    ledger.record((recording("/a", attribution(), attribution()),))
    ledger.lookup("/a")
    ledger.lookup_many(("/a", "/b", "/c"))
    now += 30
    counts = ledger.stats().counts
    assert counts["persistence.entries"] == 2
    assert counts["persistence.analyses"] == counts["persistence.recorded"] == 1
    assert (counts["persistence.lookups"], counts["persistence.hits"]) == (4, 2)
    assert counts["outbox.elasticsearch.waiting"] == 2
    assert counts["outbox.elasticsearch.oldest_s"] == 30
    ledger.close()


def test_health_tells_version_settings_and_no_issue(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    ledger = Ledger(chosen)
    health = ledger.health()
    assert (health.name, health.fingerprint, health.issues) == ("ledger", chosen.fingerprint(), ())
    ledger.close()


def test_ledger_that_cannot_write_is_failing_until_it_can(tmp_path: Path) -> None:
    ledger = Ledger(settings(tmp_path))
    assert ledger._opened is not None
    connection = ledger._opened.file._connection
    connection.execute("PRAGMA query_only = 1")
    with pytest.raises(LedgerFault):
        ledger.record((recording(),))
    health = ledger.health()
    assert health.failing
    assert str(tmp_path / "ledger.db") in health.issues[0]
    connection.execute("PRAGMA query_only = 0")
    ledger.record((recording(),))
    health = ledger.health()
    assert (health.issues, health.failing) == ((), False)
    ledger.close()


def test_ledger_whose_file_was_moved_away_is_failing_until_it_is_back_also_if_nobody_writes(tmp_path: Path) -> None:
    ledger = Ledger(settings(tmp_path))
    os.rename(tmp_path / "ledger.db", tmp_path / "away.db")
    health = ledger.health()
    assert health.failing
    assert "'" + str(tmp_path / "ledger.db") + "' was removed" in health.issues[0]
    os.rename(tmp_path / "away.db", tmp_path / "ledger.db")
    health = ledger.health()
    assert (health.issues, health.failing) == ((), False)
    ledger.close()


def test_ledger_whose_file_is_a_directory_says_so_and_starts_when_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    ledger = Ledger(settings(tmp_path))  # A constructor that raises would be a crash loop.
    with pytest.raises(LedgerFault, match=r"cannot open the ledger '.*ledger.db': Is a directory"):
        ledger.health()
    (tmp_path / "ledger.db").rmdir()
    assert ledger.health().issues == ()
    ledger.close()


def test_recording_evicts_what_is_too_old(tmp_path: Path) -> None:
    now = 1e9
    ledger = Ledger(settings(tmp_path), lambda: now)
    ledger.record((recording("/old", mtime_ns=int(1e18)),))
    now += 14 * 86400 + 1
    ledger.record((recording("/new", mtime_ns=int(now * 1e9)),))
    assert ledger.lookup("/old") is None
    assert ledger.stats().counts["cleanup.cache_expired"] == 1
    ledger.close()


def test_second_ledger_says_why_it_has_no_file_and_takes_over_when_the_first_is_gone(tmp_path: Path) -> None:
    first, second = Ledger(settings(tmp_path)), Ledger(settings(tmp_path, ledger_lock_wait_s=0))
    first.record((recording(),))
    with pytest.raises(LedgerFault, match="in use by process"):
        second.health()
    first.close()
    assert second.lookup("/logs/a.log") == analysis()
    assert second.health().issues == ()
    second.close()


def test_a_successor_that_may_take_over_gets_the_file_between_two_calls(tmp_path: Path) -> None:
    now = time.time()
    first = Ledger(settings(tmp_path), lambda: now)
    first.record((recording(),))
    second = Ledger(settings(tmp_path, ledger_lock_wait_s=0, ledger_take_over=True))
    now += LOOK_EVERY_S
    with pytest.raises(LedgerFault, match="taken the ledger over"):
        first.record((recording("/late.log"),))
    assert second.lookup("/logs/a.log") == analysis()
    assert second.lookup("/late.log") is None
    second.close()


def test_a_ledger_that_was_taken_over_never_asks_for_the_file_but_takes_it_when_nobody_has_held_it_for_long(tmp_path: Path) -> None:
    now = time.time()
    first = Ledger(settings(tmp_path, ledger_take_over=True), lambda: now)
    second = Ledger(settings(tmp_path, ledger_lock_wait_s=0, ledger_take_over=True))
    with pytest.raises(LedgerTakenOver):
        first.stats()
    second.record((recording(),))
    now += 2 * AWAY_S
    with pytest.raises(LedgerTakenOver):
        first.stats()
    second.record((recording("/b.log"),))  # Nobody asked for it.
    second.close()
    now += AWAY_S - 1  # A successor that was killed is back before that.
    with pytest.raises(LedgerTakenOver):
        first.stats()
    now += 1
    assert first.lookup("/b.log")
    first.close()


@pytest.mark.parametrize("made", ["directory", "link", "of the future", "old"])
def test_what_is_no_request_of_a_living_process_moves_nothing(tmp_path: Path, made: str) -> None:
    first = Ledger(settings(tmp_path))
    wanted, other = tmp_path / "ledger.db.lock.wanted", tmp_path / "other"
    other.touch()
    wanted.mkdir() if made == "directory" else wanted.symlink_to(other) if made == "link" else wanted.touch()
    if made in ("of the future", "old"):
        at = time.time() + (86400 if made == "of the future" else -REQUEST_AGE_MAX_S)
        os.utime(wanted, (at, at))
    assert first.health().issues == ()
    first.close()


def test_a_planted_link_is_not_followed_by_a_request(tmp_path: Path) -> None:
    first = Ledger(settings(tmp_path))
    target = tmp_path / "target"
    (tmp_path / "ledger.db.lock.wanted").symlink_to(target)
    second = Ledger(settings(tmp_path, ledger_lock_wait_s=0, ledger_take_over=True))
    with pytest.raises(LedgerFault):
        second.stats()
    assert not target.exists()
    first.close()


def test_a_second_service_by_mistake_takes_nothing(tmp_path: Path) -> None:
    first, second = Ledger(settings(tmp_path)), Ledger(settings(tmp_path, ledger_lock_wait_s=0))
    with pytest.raises(LedgerFault, match="in use by process"):
        second.stats()
    first.record((recording(),))
    first.close()


def test_ledger_of_an_unknown_schema_refuses_every_call(tmp_path: Path) -> None:
    Ledger(settings(tmp_path)).close()
    newer = sqlite3.connect(tmp_path / "ledger.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    ledger = Ledger(settings(tmp_path))
    for call in (ledger.health, ledger.stats, lambda: ledger.lookup("/a"), lambda: ledger.record((recording(),))):
        with pytest.raises(LedgerFault, match="schema 99"):
            call()
