"""The Slack sink against a loopback twin: messages, threads, owners, and which errors pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from attr_actors.adapters.slack import UNKNOWN_USER_S, SlackSink
from attr_actors.core.entries import entries_of
from attr_actors.errors import SinkError
from attr_actors.models import Action, Delivery, Outcome, Recording
from attr_actors.settings import Settings
from tests.answers import attribution, recording
from tests.ledgers import Clock, settings
from tests.loopback import DROP, GARBAGE, HANG, HTML, LOSE, TEXT, Fault, status
from tests.slack_twin import CHANNEL, TOKEN, SlackTwin


@pytest.fixture
def twin() -> Iterator[SlackTwin]:
    server = SlackTwin()
    with server.serving():
        yield server


def chosen(tmp_path: Path, twin: SlackTwin, **more: object) -> Settings:
    values = {"slack_bot_token": TOKEN, "slack_channel": CHANNEL, "slack_base_url": twin.base_url, "slack_email_domain": "example.com"}
    return settings(tmp_path, **{**values, **more})


def delivery(stored: Recording, receipt: str | None = None) -> Delivery:
    return Delivery(delivery_id=1, sink="slack", attempts=1, entry=entries_of(stored)[0], receipt=receipt)


def post(sink: SlackSink, *deliveries: Delivery) -> list[Outcome]:
    async def run() -> list[Outcome]:
        return [outcome for d in deliveries for outcome in await sink.deliver((d,))]

    return asyncio.run(run())


def test_stop_is_posted_with_the_predecessors_text_and_blocks_and_the_owner(tmp_path: Path, twin: SlackTwin) -> None:
    (outcome,) = post(SlackSink(chosen(tmp_path, twin)), delivery(recording()))
    (message,) = twin.messages
    assert (outcome.state, outcome.receipt) == ("done", message["ts"])
    assert message["text"].startswith("*Job ID:* `4711`\n*Failed due to:*")
    assert "<@U0ADA>" in message["text"]
    assert message["blocks"][0]["type"] == "header"
    assert "thread_ts" not in message


def test_repeat_of_the_failure_goes_to_the_thread_of_the_first(tmp_path: Path, twin: SlackTwin) -> None:
    (outcome,) = post(SlackSink(chosen(tmp_path, twin)), delivery(recording(), "1700000000.000009"))
    assert twin.messages[0]["thread_ts"] == "1700000000.000009"
    assert outcome.receipt == "1700000000.000009"


@pytest.mark.parametrize("action", [a for a in Action if a is not Action.STOP])
def test_other_actions_are_never_posted(tmp_path: Path, twin: SlackTwin, action: Action) -> None:
    (outcome,) = post(SlackSink(chosen(tmp_path, twin)), delivery(recording("/a", attribution(action))))
    assert outcome.state == "done"
    assert twin.requests == []


def test_owner_is_looked_up_once_and_so_is_an_unknown_one_for_an_hour(tmp_path: Path, twin: SlackTwin) -> None:
    clock = Clock()
    sink = SlackSink(chosen(tmp_path, twin), clock)
    post(sink, *[delivery(recording(user=u)) for u in ("ada", "bob", "ada", "bob", "unknown")])
    assert twin.lookups == ["ada@example.com", "bob@example.com"]
    clock.now += UNKNOWN_USER_S
    post(sink, *[delivery(recording(user=u)) for u in ("ada", "bob")])
    assert twin.lookups == ["ada@example.com", "bob@example.com", "bob@example.com"]
    assert ["<@" in m["text"] for m in twin.messages] == [True, False, True, False, False, True, False]


def test_no_owner_is_looked_up_without_a_domain(tmp_path: Path, twin: SlackTwin) -> None:
    post(SlackSink(chosen(tmp_path, twin, slack_email_domain="")), delivery(recording()))
    assert twin.lookups == []
    assert len(twin.messages) == 1


def test_rate_limit_says_when_to_come_back(tmp_path: Path, twin: SlackTwin) -> None:
    twin.faults.append(status(429, {"ok": False, "error": "ratelimited"}, Retry_After="37"))
    with pytest.raises(SinkError) as caught:
        post(SlackSink(chosen(tmp_path, twin)), delivery(recording()))
    assert caught.value.retry_after_s == 37


@pytest.mark.parametrize("fault", [DROP, LOSE, HTML, TEXT, GARBAGE, status(500), status(503), status(200, ["x"]), status(200, {})])
def test_fault_of_slack_passes_and_is_sent_once_by_us(tmp_path: Path, twin: SlackTwin, fault: Fault) -> None:
    sink = SlackSink(chosen(tmp_path, twin, slack_email_domain=""))
    twin.faults.append(fault)
    with pytest.raises(SinkError):
        post(sink, delivery(recording()))
    assert len(twin.requests) == 1
    assert [o.state for o in post(sink, delivery(recording()))] == ["done"]


def test_silent_slack_is_given_up_after_the_timeout(tmp_path: Path, twin: SlackTwin) -> None:
    twin.faults.append(HANG)
    twin.hang_s = 5
    with pytest.raises(SinkError, match=r"^127\.0\.0\.1:\d+: timed out$"):
        post(SlackSink(chosen(tmp_path, twin, sink_timeout_s=1)), delivery(recording()))


@pytest.mark.parametrize("error", ["invalid_auth", "channel_not_found", "not_in_channel", "internal_error", "never_heard_of"])
def test_error_of_token_channel_or_slack_is_tried_again(tmp_path: Path, twin: SlackTwin, error: str) -> None:
    twin.errors = [error]
    with pytest.raises(SinkError, match=error):
        post(SlackSink(chosen(tmp_path, twin)), delivery(recording()))


def test_refused_blocks_are_left_away_and_a_refused_text_is_parked(tmp_path: Path, twin: SlackTwin) -> None:
    sink = SlackSink(chosen(tmp_path, twin))
    twin.errors = ["invalid_blocks"]
    assert [o.state for o in post(sink, delivery(recording()))] == ["done"]
    assert "blocks" not in twin.messages[0]
    twin.errors = ["invalid_blocks", "msg_too_long"]
    (outcome,) = post(sink, delivery(recording()))
    assert (outcome.state, outcome.reason) == ("parked", "msg_too_long")


def test_token_stays_out_of_errors(tmp_path: Path, twin: SlackTwin) -> None:
    wrong = "xoxb-wrong-but-secret"
    with pytest.raises(SinkError) as caught:
        post(SlackSink(chosen(tmp_path, twin, slack_bot_token=wrong)), delivery(recording()))
    assert caught.value.message == "invalid_auth; the token is refused, see SLACK_BOT_TOKEN"


def test_slack_that_nobody_reaches_is_told_by_host_and_reason(tmp_path: Path) -> None:
    away = SlackTwin()
    with away.serving():
        pass
    with pytest.raises(SinkError, match=f"^127.0.0.1:{away.port}: connection refused$"):
        post(SlackSink(chosen(tmp_path, away)), delivery(recording()))
