"""The ledger and its notifiers in a process that is killed with SIGKILL at random moments, over and over, on one file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from attr_actors.adapters.ledger_db import LedgerDb
from attr_actors.adapters.ledger_upkeep import verify
from attr_actors.core.entries import entries_of, entry_key
from tests.delivering import BATCH, numbered
from tests.elasticsearch_twin import ElasticsearchTwin
from tests.killing import Delivering
from tests.slack_twin import CHANNEL, TOKEN, SlackTwin

ROUNDS = int(os.environ.get("ATTR_ACTORS_KILLS", "5"))
"""Fifty for the record; a few in every run."""


@pytest.mark.long
@pytest.mark.timeout(550)
def test_no_acknowledged_answer_is_lost_and_no_document_is_doubled_by_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    elastic, slack = ElasticsearchTwin(), SlackTwin()
    with elastic.serving(), slack.serving():
        settings = {
            "dataflow_index": "attribution",
            "elasticsearch_url": elastic.url,
            "slack_bot_token": TOKEN,
            "slack_channel": CHANNEL,
            "slack_base_url": slack.base_url,
            "sink_timeout_s": 1,
            "outbox_lease_s": 4,
            "outbox_poll_interval_s": 0.02,
        }
        acked = 0
        for kill in range(ROUNDS):
            service = Delivering(tmp_path, acked, 10**6, **settings)
            target = service.acked + chance.randrange(1, 30) * BATCH
            service.wait(lambda s=service, t=target: s.acked >= t, 60)
            service.kill()
            acked = service.acked
            db = LedgerDb(str(tmp_path / "ledger.db"))
            lost = [n for n in range(max(0, acked - 1000), acked) if db.lookup(f"/logs/{n}.log") != numbered(n).analysis]
            assert not lost, f"seed {seed}, kill {kill}: {lost[:5]}"
            db.close()
        last = Delivering(tmp_path, acked, acked, **settings)
        last.wait(lambda: last.owed == 0, 120)
        last.kill()
    db = LedgerDb(str(tmp_path / "ledger.db"))
    assert verify(db) == []
    stored = [recording.analysis.snapshot.path for recording in db.recordings()]
    db.close()
    answers = range(len(stored))
    assert {f"/logs/{n}.log" for n in range(acked)} <= set(stored)
    assert acked <= len(stored) <= acked + BATCH
    assert set(elastic.documents) == {entry_key(entry) for n in answers for entry in entries_of(numbered(n))}
    stops = sorted(int(m["text"].split("`")[1]) for m in slack.messages)
    assert sorted(set(stops)) == [n for n in answers if n % 10 == 0]
    # A message can only be sent again where the process died between Slack's reply and the ledger's note of it.
    assert len(stops) - len(set(stops)) <= ROUNDS
    with capsys.disabled():
        print(
            f"\nseed {seed}: {ROUNDS} kills, {acked} answers acknowledged, 0 lost, {len(elastic.documents)} documents"
            f" of {len(stored)} answers, {len(stops)} Slack messages for {len(set(stops))} stops"
        )
