"""The second opinion beside its neighbours: what happens when gate, ledger or model are missing at the wrong moment."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from attr_actors.actors.second_opinion import SecondOpinion
from attr_actors.adapters.llm_wire import Completion, Question
from attr_actors.core.paths import LogPath
from attr_actors.errors import ModelError, Unavailable
from attr_actors.models import Action, Analysis, Attribution, Category, Line, ModelOutcome, Permit, Requester, Snapshot, StoredReply
from attr_actors.settings import Settings

LINE = "OSError: [Errno 28] No space left on device"
REPLY = {"root_cause": "disk", "citations": [{"line": 1, "quote": LINE}], "category": "storage", "action": "STOP", "nodes": []}


class Gate:
    """Grants everything, and notes what came back; may be away."""

    def __init__(self, away_for_release: bool = False, permit: Permit | None = None) -> None:
        self.away_for_release = away_for_release
        self.permit = permit or Permit(granted=True)
        self.outcomes: list[ModelOutcome] = []
        self.returned = asyncio.Event()

    async def acquire(self, ticket: str, wait_s: float) -> Permit:
        return self.permit

    async def release(self, ticket: str, outcome: ModelOutcome) -> None:
        if self.away_for_release:
            raise Unavailable("the model-gate is restarting")
        self.outcomes.append(outcome)
        self.returned.set()


class Replies:
    """The ledger's part that keeps replies."""

    def __init__(self) -> None:
        self.kept: dict[str, StoredReply] = {}

    async def find_reply(self, key: str) -> StoredReply | None:
        return self.kept.get(key)

    async def save_reply(self, reply: StoredReply) -> None:
        self.kept[reply.key] = reply


class Model:
    """Answers well after it was let, or fails."""

    key_source = "test"

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.calls = 0
        self.called, self.let = asyncio.Event(), asyncio.Event()
        self.let.set()

    async def complete(self, question: Question, until: float) -> Completion:
        self.calls += 1
        self.called.set()
        await self.let.wait()
        if self.fault:
            raise self.fault
        return Completion(json.dumps(REPLY), question.model, 100, 20)


def analysis(tmp_path: Path, **changes: object) -> tuple[Analysis, LogPath]:
    place = tmp_path / "job.log"
    place.write_text(LINE + "\n")
    line = Line(line_number=1, byte_offset=0, text=LINE)
    rules = Attribution(action=Action.STOP, category=Category.STORAGE, rule="r", root_cause="rules", root_lines=(line,), confidence=0.9)
    rules = rules.model_copy(update=changes)
    snapshot = Snapshot(path=str(place), size=1, mtime_ns=1)
    return Analysis(snapshot=snapshot, engine="e", cycles=(rules,), result_id="x", analysed_at=0.0), LogPath(str(place), str(tmp_path))


def opinion(tmp_path: Path, model: Model, gate: Gate, ledger: Replies | None = None) -> SecondOpinion:
    settings = Settings.load(allowed_root=str(tmp_path))
    return SecondOpinion(settings, model, gate, ledger or Replies(), lambda _: None)  # type: ignore[arg-type]


def consider(tmp_path: Path, model: Model, gate: Gate) -> Attribution:
    found, log = analysis(tmp_path)
    return asyncio.run(opinion(tmp_path, model, gate).consider(found, log, Requester())).cycles[-1]


def test_an_answer_is_not_lost_when_the_gate_is_away_for_its_return(tmp_path: Path) -> None:
    found = consider(tmp_path, Model(), Gate(away_for_release=True))
    assert (found.source, found.root_cause, found.degraded) == ("model", "disk", None)


def test_a_refused_permit_costs_no_call_and_names_its_reason(tmp_path: Path) -> None:
    model = Model()
    found = consider(tmp_path, model, Gate(permit=Permit(granted=False, reason="the day's token budget is spent")))
    assert (model.calls, found.source, found.degraded) == (0, "rules", "no second opinion: the day's token budget is spent")


def test_a_failure_is_told_to_the_gate_with_its_retry_after(tmp_path: Path) -> None:
    gate = Gate()
    found = consider(tmp_path, Model(ModelError("the model endpoint answered 429", 7.0)), gate)
    assert found.degraded == "no second opinion: the model endpoint answered 429"
    assert [(o.result, o.retry_after_s) for o in gate.outcomes] == [("failed", 7.0)]


def test_a_cancelled_question_returns_its_permit(tmp_path: Path) -> None:
    async def go() -> list[ModelOutcome]:
        gate, model = Gate(), Model()
        model.let.clear()
        found, log = analysis(tmp_path)
        second = opinion(tmp_path, model, gate)
        asking = asyncio.create_task(second.consider(found, log, Requester()))
        await asyncio.wait_for(model.called.wait(), 10)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(gate.returned.wait(), 10)
        return gate.outcomes

    assert [o.result for o in asyncio.run(go())] == ["abandoned"]


def test_the_same_evidence_asked_at_once_and_later_is_one_call(tmp_path: Path) -> None:
    async def go() -> tuple[int, set[str]]:
        model, ledger = Model(), Replies()
        second = opinion(tmp_path, model, Gate(), ledger)
        found, log = analysis(tmp_path)
        answers = await asyncio.gather(*(second.consider(found, log, Requester()) for _ in range(20)))
        answers.append(await opinion(tmp_path, model, Gate(), ledger).consider(found, log, Requester()))
        return model.calls, {a.cycles[-1].source for a in answers}

    assert asyncio.run(go()) == (1, {"model"})


def test_a_run_in_which_surely_nothing_failed_is_not_asked_about(tmp_path: Path) -> None:
    second = opinion(tmp_path, Model(), Gate())
    healthy, _ = analysis(tmp_path, action=Action.CONTINUE, category=Category.NONE)
    unsure, _ = analysis(tmp_path, action=Action.CONTINUE, category=Category.NONE, confidence=0.4)
    assert [second.wanted(healthy), second.wanted(unsure)] == [False, True]


def test_a_log_that_is_gone_is_a_reason_and_not_an_error(tmp_path: Path) -> None:
    found, log = analysis(tmp_path)
    Path(log.path).unlink()
    last = asyncio.run(opinion(tmp_path, Model(), Gate()).consider(found, log, Requester())).cycles[-1]
    assert "not found" in (last.degraded or "")
