"""Batches that ask the model: where it is wanted, once, within its bounds, and never at the cost of an answer or a secret."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import attr_actors
from attr_actors.actors.ledger import Ledger
from attr_actors.actors.second_opinion import SecondOpinion, with_reason
from attr_actors.batch import ledger_settings
from attr_actors.batch_files import find_logs
from attr_actors.batch_model import Opinions, asking_settings
from attr_actors.batch_work import Analysed, Answer, Job, analyse_logs, answer_logs, engine_of
from attr_actors.cli import main
from attr_actors.errors import BadSettings
from attr_actors.handles import LedgerHandle
from attr_actors.models import Analysis, Recording, Requester
from attr_actors.settings import Settings
from tests.api.conftest import OOM_LOG
from tests.api.test_second_opinion import GOOD
from tests.ledgers import InProcess
from tests.model_server import ModelServer, Step, answer, completion, refusal, serving

KEY = "k3y-that-n0b0dy-may-see"
HEALTHY = Path(attr_actors.__file__).parent / "samples" / "healthy.log"
FAILED = 4

Batch = Callable[..., int]


@pytest.fixture(autouse=True)
def _places_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))  # Compiled signatures.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))  # No key of the person who runs the tests.
    for name, value in {"LLM_MODEL": "m", "LLM_RETRIES_MAX": "0", "LLM_BREAKER_FAILURES": "99", "LLM_CALL_TIMEOUT_S": "20"}.items():
        monkeypatch.setenv(f"NVRX_ATTRSVC_{name}", value)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Logs of which each failed one has evidence of its own, and one in which surely nothing failed."""
    place = tmp_path / "logs"
    place.mkdir()
    for number in range(FAILED):
        (place / f"slurm-{number}.out").write_text(OOM_LOG.replace("79.10", f"79.{number}"))
    (place / "healthy.log").write_bytes(HEALTHY.read_bytes())
    return place


def rows(path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["log_path"] for row in found}) == len(found)
    return {Path(row["log_path"]).name: row for row in found}


@pytest.fixture
def run(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """Run a batch over the logs, with the key of a model at an URL."""

    def start(out: str, *argv: str, server: ModelServer | None = None) -> int:
        if server:
            monkeypatch.setenv("NVRX_ATTRSVC_LLM_BASE_URL", server.url)
            monkeypatch.setenv("LLM_API_KEY", KEY)
        return main(["batch", str(logs), "--out", str(tmp_path / out), "--local", "--workers", "1", *argv])

    return start


def opinions(out: Path) -> set[str]:
    return {name for name, row in rows(out).items() if row["attribution"].get("opinion")}


def failed_logs() -> set[str]:
    return {f"slurm-{number}.out" for number in range(FAILED)}


def test_rows_and_ledger_hold_what_rules_and_model_weigh_together_and_nothing_is_asked_twice(run: Batch, tmp_path: Path) -> None:
    with serving(lambda r, n: answer(**GOOD)) as server:
        assert run("a.jsonl", "--model", server=server) == 0
        assert opinions(tmp_path / "a.jsonl") == failed_logs()
        found = rows(tmp_path / "a.jsonl")
        assert {row["attribution"]["root_cause"] for name, row in found.items() if name in failed_logs()} == {GOOD["root_cause"]}
        assert {row["attribution"]["source"] for row in found.values()} == {"model", "rules"}
        assert len(server.requests) == FAILED
        assert run("a.jsonl", "--model") == 0
        assert run("b.jsonl") == 0
        assert run("c.jsonl", "--model") == 0
        assert len(server.requests) == FAILED
    for again in ("b.jsonl", "c.jsonl"):
        assert all(row["reused"] for row in rows(tmp_path / again).values())
        assert {n: row["attribution"] for n, row in rows(tmp_path / again).items()} == {n: row["attribution"] for n, row in found.items()}


def test_rows_of_a_run_without_the_model_are_answered_anew_where_it_is_wanted(
    run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda r, n: answer(**GOOD)) as server:
        assert run("r.jsonl", server=server) == 0
        assert not server.requests
        capsys.readouterr()
        assert run("r.jsonl", "--model", "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["kept"], said["answered"], said["reused"], said["degraded"]) == (1, FAILED, FAILED, 0)
        assert opinions(tmp_path / "r.jsonl") == failed_logs()
        assert run("r.jsonl", "--json") == 0
        assert json.loads(capsys.readouterr().out)["kept"] == FAILED + 1
        assert len(server.requests) == FAILED


def test_where_the_model_fails_the_row_has_the_rules_answer_and_the_next_run_asks_again(
    run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = iter([refusal(500), completion("I would say it is the disk."), completion("No idea."), Step(drop=True)])
    with serving(lambda r, n: next(faults, answer(**GOOD))) as server:
        assert run("r.jsonl", "--model", server=server) == 0
        found = rows(tmp_path / "r.jsonl")
        assert {row["attribution"]["action"] for name, row in found.items() if name in failed_logs()} == {"STOP"}
        lacking = {name for name, row in found.items() if (row["attribution"]["degraded"] or "").startswith("no second opinion: ")}
        assert lacking | opinions(tmp_path / "r.jsonl") == failed_logs()
        assert lacking
        assert f"{len(lacking)} answers are the rules' alone" in capsys.readouterr().out
        assert run("r.jsonl", "--model") == 0
        assert opinions(tmp_path / "r.jsonl") == failed_logs()
        assert not any(row["attribution"]["degraded"] for row in rows(tmp_path / "r.jsonl").values())


def test_a_chunk_asks_about_its_logs_at_the_same_time_within_the_bounds_of_the_gate(
    run: Batch, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVRX_ATTRSVC_LLM_CALLS_MAX", "3")
    monkeypatch.setenv("NVRX_ATTRSVC_FLIGHTS_MAX", "5")
    for number in range(20):
        (logs / f"more-{number}.out").write_text(OOM_LOG.replace("1.20", f"1.{number + 30}"))
    together = threading.Event()

    def script(request: dict[str, Any], n: int) -> Step:
        if server.under_way == 3:
            together.set()
        return answer(**GOOD) if together.wait(20) else refusal(500)

    with serving(script) as server:
        assert run("r.jsonl", "--model", server=server) == 0
        assert server.under_way_max == 3
    assert len(opinions(tmp_path / "r.jsonl")) == FAILED + 20


def test_without_a_key_it_is_said_before_anything_is_done(run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("r.jsonl", "--model") == 2
    assert "--model needs the key of a model" in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()
    with pytest.raises(BadSettings):
        asking_settings(Settings.load(allowed_root="/"))


def test_a_second_batch_meanwhile_may_not_ask_without_the_ledger(run: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    held = Ledger(ledger_settings(Settings.load(allowed_root="/"), post=False))
    with serving(lambda r, n: answer(**GOOD)) as server:
        assert run("r.jsonl", "--model", server=server) == 1
        assert not server.requests
    held.close()
    assert "ledger" in capsys.readouterr().err


@pytest.mark.parametrize("healthy", [True, False])
def test_no_secret_lands_in_rows_ledger_or_output(
    healthy: bool, run: Batch, logs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG")
    token = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3hJ6"
    (logs / "slurm-0.out").write_text(OOM_LOG + f"RuntimeError: login with {token} failed\n")
    (tmp_path / ".nvidia_api_key").write_text(KEY)
    with serving(lambda r, n: answer(**GOOD) if healthy else refusal(401, f"bad key {KEY}")) as server:
        monkeypatch.setenv("NVRX_ATTRSVC_LLM_BASE_URL", server.url)
        assert run("r.jsonl", "--model") == 0
        assert set(server.keys) == {f"Bearer {KEY}"}
        assert b"RuntimeError: login with" in b"".join(server.raw)
        assert token.encode() not in b"".join(server.raw)
    said = capfd.readouterr()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert len(stored) > 1000
    for place in (said.out, said.err, caplog.text, (tmp_path / "r.jsonl").read_text(), stored.decode(errors="replace")):
        assert KEY not in place


class Odd:
    """A second opinion that fails in a way that nobody expects, or during which something else happens."""

    def __init__(self, meanwhile: Callable[[Analysis], None]) -> None:
        self._meanwhile = meanwhile

    def wanted(self, analysis: Analysis) -> bool:
        return analysis.snapshot.path.endswith(".out")

    async def consider(self, analysis: Analysis, log: object, requester: Requester) -> Analysis:
        self._meanwhile(analysis)
        return with_reason(analysis, "considered")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(Settings.load(allowed_root="/", cache_file=str(tmp_path / "l.db")))
    yield found
    found.close()


def answer_with(second: Odd, logs: Path, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Answer for the logs as a worker does, and return the attributions."""
    settings = Settings.load(allowed_root="/")

    async def analyse(paths: Sequence[str]) -> Analysed:
        return analyse_logs(settings.engine, paths, 60)

    async def work() -> list[Answer]:
        opinions = Opinions(cast(SecondOpinion, second), settings)
        handle = cast(LedgerHandle, InProcess(ledger))
        job = Job(settings.engine, engine_of(settings.engine).fingerprint, 60, handle, opinions=opinions)
        return await answer_logs(job, find_logs(str(logs)), analyse)

    return {row["log_path"]: row["attribution"] for row in (json.loads(each.row) for each in asyncio.run(work()))}


def test_an_opinion_that_fails_oddly_costs_its_log_the_opinion_and_nothing_else(logs: Path, ledger: Ledger) -> None:
    def fail(analysis: Analysis) -> None:
        raise ZeroDivisionError

    found = answer_with(Odd(fail), logs, ledger)
    odd = "no second opinion: unexpected error; the worker's log has the details"
    assert {path: row["degraded"] for path, row in found.items()} == {path: odd if path.endswith(".out") else None for path in found}


def test_an_opinion_never_replaces_the_answer_about_a_log_that_was_analysed_anew_meanwhile(logs: Path, ledger: Ledger) -> None:
    newer: dict[str, Analysis] = {}

    def grow(analysis: Analysis) -> None:
        if analysis.snapshot.path.endswith("slurm-0.out"):
            seen = analysis.snapshot.model_copy(update={"size": 1_000_000})
            newer[seen.path] = analysis.model_copy(update={"snapshot": seen})
            ledger.record((Recording(analysis=newer[seen.path]),))

    found = answer_with(Odd(grow), logs, ledger)
    assert len(newer) == 1
    for path, attribution in found.items():
        stored = ledger.lookup(path)
        assert stored
        assert stored == newer.get(path, stored)
        assert path in newer or stored.cycles[-1].model_dump(mode="json") == attribution


def test_an_opinion_on_a_known_answer_keeps_the_names_that_it_was_asked_for_with(logs: Path, ledger: Ledger) -> None:
    log = next(log for log in find_logs(str(logs)) if log.path.endswith("slurm-0.out"))
    asker = Requester(user="ann", job_id="4711", cycle_id=3)
    rules = analyse_logs(Settings.load(allowed_root="/").engine, [log.path], 60)[0]
    assert isinstance(rules, Analysis)
    ledger.record((Recording(analysis=rules, requester=asker),))
    assert answer_with(Odd(lambda _: None), logs, ledger)[log.path]["degraded"] == "considered"
    recorded = {recording.analysis.snapshot.path: recording for recording in ledger._db.recordings()}[log.real]
    assert (recorded.requester, recorded.analysis.degraded) == (asker, "considered")
