"""Entry keys, and who is told of what."""

from __future__ import annotations

import pytest

from attr_actors.core.entries import concerns, content_of, entries_of, entry_key, is_news, topic_key
from attr_actors.models import Action, Attribution
from tests.answers import attribution, recording


def after(answer: Attribution) -> tuple[Action, str]:
    return answer.action, content_of(answer)


STOP = after(attribution())
OTHER_STOP = after(attribution(signature="bad_config"))
RESTART = after(attribution(Action.RESTART))


def test_recording_has_one_entry_per_cycle_in_order() -> None:
    entries = entries_of(recording("/logs/a", attribution(), attribution(Action.RESTART)))
    assert [(e.wl_restart, e.attribution.action, e.cycles) for e in entries] == [(0, Action.STOP, 2), (1, Action.RESTART, 2)]


def test_entry_key_comes_from_the_content_key_and_not_from_the_answer() -> None:
    keys = {
        entry_key(entries_of(r)[0])
        for r in (recording(), recording("/logs/a.log", attribution(Action.RESTART), at=5.0), recording(user="bob", job_id=None))
    }
    assert len(keys) == 1
    others = [recording("/logs/b.log"), recording(size=1), recording(mtime_ns=1), recording(engine="e2")]
    keys |= {entry_key(entries_of(r)[0]) for r in others}
    keys.add(entry_key(entries_of(recording("/logs/a.log", attribution(), attribution()))[1]))
    assert len(keys) == 6


@pytest.mark.parametrize("sink", ["elasticsearch", "webhook", "own"])
def test_record_sink_is_told_of_new_and_changed_answers_only(sink: str) -> None:
    assert is_news(sink, None, RESTART)
    assert is_news(sink, RESTART, STOP)
    assert is_news(sink, STOP, OTHER_STOP)
    assert not is_news(sink, STOP, STOP)


def test_slack_is_told_once_when_an_entry_first_says_stop() -> None:
    assert is_news("slack", None, STOP)
    assert is_news("slack", RESTART, STOP)
    assert not is_news("slack", STOP, OTHER_STOP)
    assert not is_news("slack", None, RESTART)
    assert not is_news("slack", STOP, RESTART)
    assert [a for a in Action if concerns("slack", a)] == [Action.STOP]


def test_topic_is_the_job_and_its_cause() -> None:
    def topic(path: str, **more: object) -> str:
        cause = {"signature": more.pop("signature", "cuda_oom")}
        return topic_key(entries_of(recording(path, attribution(**cause), **more))[0])  # type: ignore[arg-type]

    assert topic("/logs/a") == topic("/logs/b")
    assert topic("/logs/a") != topic("/logs/a", signature="other")
    assert topic("/logs/a") != topic("/logs/a", job_id="1")
    assert topic("/logs/a", job_id=None) != topic("/logs/b", job_id=None)
