"""No secret in what ledger, notifiers and the libraries below them log, count, report or store, whatever fails."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from attr_actors.actors.ledger import Ledger
from attr_actors.actors.notifier import Notifier
from attr_actors.adapters.ledger_upkeep import list_deliveries
from tests.answers import recording
from tests.elasticsearch_twin import ElasticsearchTwin
from tests.ledgers import InProcess, settings, until
from tests.loopback import DROP, GARBAGE, LOSE, Loopback, Reply, Request, status
from tests.slack_twin import CHANNEL, TOKEN, SlackTwin

SECRETS = (TOKEN, "el4stic-passw0rd", "webh00k-signing-key", "webh00k-passw0rd", "webh00k-t0ken")


class Receiver(Loopback):
    def answer(self, request: Request) -> Reply:
        return Reply(204, b"")


def test_no_secret_is_logged_counted_or_stored_by_any_sink_in_any_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    elastic, slack, receiver = ElasticsearchTwin(), SlackTwin(), Receiver()
    slack.errors = ["invalid_auth"]
    for twin in (elastic, slack, receiver):
        twin.faults.extend([status(401), DROP, status(500), LOSE, GARBAGE, status(429), status(503)])

    async def run() -> str:
        chosen = settings(
            tmp_path,
            dataflow_index="i",
            elasticsearch_url=elastic.url.replace("://", "://writer:el4stic-passw0rd@"),
            slack_bot_token=TOKEN,
            slack_channel=CHANNEL,
            slack_base_url=slack.base_url,
            export_url=receiver.url.replace("://", "://hook:webh00k-passw0rd@") + "/in?token=webh00k-t0ken",
            export_secret="webh00k-signing-key",
            outbox_poll_interval_s=0.01,
            outbox_backoff_max_s=0.02,
        )
        ledger = Ledger(chosen)
        notifiers = [Notifier(chosen, InProcess(ledger), name) for name in chosen.sink_names]  # type: ignore[arg-type]
        ledger.record(tuple(recording(f"/{n}", job_id=str(n)) for n in range(8)))
        said = [chosen, chosen.sink_names]

        def settled() -> bool:
            if any((elastic.faults, slack.faults, receiver.faults, slack.errors)):
                return False
            said.append((ledger.stats(), ledger.health(), list_deliveries(ledger._db, None, None, 100, 0.0)))
            counts = ledger.stats().counts
            return not any(counts[f"outbox.{name}.{state}"] for name in chosen.sink_names for state in ("waiting", "leased"))

        await until(settled, 60)
        said += [(await notifier.stats(), await notifier.health()) for notifier in notifiers]
        for notifier in notifiers:
            await notifier.drain(5)
        ledger.close()
        return str(said)

    with elastic.serving(), slack.serving(), receiver.serving():
        said = asyncio.run(run())
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert caplog.records
    for secret in SECRETS:
        assert secret not in said
        assert secret not in caplog.text
        assert secret.encode() not in stored
