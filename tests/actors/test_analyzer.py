"""The analyzer: one flight per path, durable before visible, and no crash loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from attr_actors.actors.analyzer import ATTEMPTS_MAX, Analyzer
from attr_actors.actors.isolation import analyze_isolated
from attr_actors.core.paths import admit
from attr_actors.errors import AnalysisFailed, EmptyFile, NotFound, Overloaded
from attr_actors.models import Analysis, AnalyzeRequest, Recording, Snapshot
from attr_actors.settings import Settings
from tests.api.conftest import OOM_LOG


class LedgerTwin:
    """Keeps recordings in memory; counts attempts as told."""

    def __init__(self, attempts: int = 1) -> None:
        self.attempts = attempts
        self.recorded: list[Recording] = []
        self.was_recorded = asyncio.Event()

    async def lookup(self, path: str) -> Analysis | None:
        return next((r.analysis for r in reversed(self.recorded) if r.analysis.snapshot.path == path), None)

    async def record(self, recordings: tuple[Recording, ...]) -> None:
        self.recorded += recordings
        self.was_recorded.set()

    async def begin_attempt(self, snapshot: Snapshot, engine: str) -> int:
        return self.attempts


def build(tmp_path: Path, ledger: LedgerTwin, **fields: object) -> tuple[Analyzer, str]:
    log = tmp_path / "a.log"
    log.write_text(OOM_LOG)
    return Analyzer(Settings.load(allowed_root=str(tmp_path), **fields), ledger), str(log)  # type: ignore[arg-type]


def test_callers_of_one_path_share_one_flight_and_one_recording(tmp_path: Path) -> None:
    ledger = LedgerTwin()
    analyzer, path = build(tmp_path, ledger)

    async def flow() -> list[Analysis]:
        return await asyncio.gather(*(analyzer.analyze(AnalyzeRequest(path=path)) for _ in range(20)))

    assert len({a.result_id for a in asyncio.run(flow())}) == 1
    assert len(ledger.recorded) == 1


def test_a_caller_that_goes_away_does_not_stop_the_flight(tmp_path: Path) -> None:
    ledger = LedgerTwin()
    analyzer, path = build(tmp_path, ledger)

    async def flow() -> None:
        caller = asyncio.create_task(analyzer.analyze(AnalyzeRequest(path=path)))
        await asyncio.sleep(0)
        caller.cancel()
        async with asyncio.timeout(10):
            await ledger.was_recorded.wait()

    asyncio.run(flow())


def test_a_failure_is_shared_and_not_remembered(tmp_path: Path) -> None:
    analyzer, path = build(tmp_path, LedgerTwin())
    Path(path).write_text("")
    with pytest.raises(EmptyFile):
        asyncio.run(analyzer.analyze(AnalyzeRequest(path=path)))
    Path(path).write_text(OOM_LOG)
    asyncio.run(analyzer.analyze(AnalyzeRequest(path=path)))


def test_more_flights_than_the_limit_are_refused(tmp_path: Path) -> None:
    analyzer, path = build(tmp_path, LedgerTwin(), flights_max=1)

    async def flow() -> None:
        first = asyncio.create_task(analyzer.analyze(AnalyzeRequest(path=path)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await analyzer.analyze(AnalyzeRequest(path=path + "2"))
        await first

    asyncio.run(flow())


def test_a_log_whose_reader_died_is_read_in_a_child_process_with_the_same_answer(tmp_path: Path) -> None:
    first, path = build(tmp_path, LedgerTwin(attempts=1))
    second, _ = build(tmp_path, LedgerTwin(attempts=2))
    Path(path).touch()
    answers = [asyncio.run(a.analyze(AnalyzeRequest(path=path))) for a in (first, second)]
    assert answers[0].cycles == answers[1].cycles


def test_a_log_that_ended_its_reader_too_often_is_not_read_again(tmp_path: Path) -> None:
    analyzer, path = build(tmp_path, LedgerTwin(attempts=ATTEMPTS_MAX + 1))
    with pytest.raises(AnalysisFailed):
        asyncio.run(analyzer.analyze(AnalyzeRequest(path=path)))


def test_a_child_that_dies_is_an_analysis_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer, path = build(tmp_path, LedgerTwin())
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(AnalysisFailed, match="exit code 1"):
        asyncio.run(analyze_isolated(admit(path, str(tmp_path)), analyzer._settings.engine, 30))


def test_a_log_that_goes_away_under_its_reader_is_not_found_however_often(tmp_path: Path) -> None:
    analyzer, path = build(tmp_path, LedgerTwin())
    log = admit(path, str(tmp_path))
    Path(path).unlink()
    with pytest.raises(NotFound):
        asyncio.run(analyze_isolated(log, analyzer._settings.engine, 30))
