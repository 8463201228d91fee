"""Batches on this machine: every log has exactly one row, whatever is stopped, changed or broken on the way."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from attr_actors import batch
from attr_actors.batch import LocalWorkers, Plan, WorkerDied, run_batch
from attr_actors.batch_chunks import CHUNK_EFFORT_MAX, CHUNK_EFFORT_MIN, CHUNK_LOGS, CHUNKS_LEFT_PER_CPU, cut, effort
from attr_actors.batch_files import FoundLog, ResultsFile, find_logs
from attr_actors.batch_report import Progress, write_report
from attr_actors.batch_work import Analysed, Answer, Job, answer_logs, render_answer
from attr_actors.cli import main
from attr_actors.core.paths import LogPath
from attr_actors.core.result_rows import ResultRow
from attr_actors.core.summary import Digest, Summary, render_summary
from attr_actors.errors import AnalysisFailed, EmptyFile, InvalidParameter, NotFound, Unavailable
from attr_actors.handles import LedgerHandle
from attr_actors.models import Analysis, AnalyzeRequest, EngineConfig, Flight, Recording, Snapshot
from attr_actors.settings import Settings
from tests.api.conftest import OOM_LOG
from tests.loopback import Loopback, Reply, Request
from tests.tools.conftest import Running
from tests.twins import ANSWER, TwinAnalyzer

REPO = Path(__file__).resolve().parent.parent.parent
MANY = 640
NODE_LOG = "step 1\n[node17] NVRM: Xid (PCI:0000:4e:00): 79, pid=1, GPU has fallen off the bus.\n"


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    place = tmp_path / "logs"
    (place / "deep").mkdir(parents=True)
    for number in range(6):
        (place / "deep" / f"slurm-{number}.out").write_text(OOM_LOG + f"run {number}\n")
    (place / "b.log").write_text("all is well\n")
    (place / "notes.md").write_text("not a log")
    return place


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(target: Path | str, out: Path, *argv: str) -> int:
    return main(["batch", str(target), "--out", str(out), "--local", "--workers", "1", *argv])


class TwinWorkers:
    """Answers without reading; some logs end their reader, always or a few times."""

    def __init__(self, deaths: dict[str, int] | None = None) -> None:
        self.deaths = deaths or {}
        self.asked: list[list[str]] = []
        self.flying = self.most = 0

    def cpus(self) -> int:
        return 2

    async def answer(self, job: Job, logs: Sequence[FoundLog]) -> list[Answer]:
        self.asked.append([log.path for log in logs])
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        for log in logs:
            if self.deaths.get(log.path, 0) > 0:
                self.deaths[log.path] -= 1
                raise WorkerDied
        return [render_answer(ResultRow(log_path=log.path)) for log in logs]


def work(workers: TwinWorkers, logs: Sequence[FoundLog]) -> list[ResultRow]:
    async def main() -> list[ResultRow]:
        job = Job(EngineConfig(), "e", 1.0)
        return [ResultRow.model_validate_json(answer.row) async for answers in batch._work(workers, job, logs) for answer in answers]

    return asyncio.run(main())


def test_a_batch_answers_each_log_once_and_a_second_run_has_nothing_to_do(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    assert run(logs, out) == 0
    first = out.read_bytes()
    assert sorted(row["log_path"] for row in rows(out)) == sorted(str(p) for p in logs.rglob("*") if p.suffix in (".out", ".log"))
    assert {row["schema_version"] for row in rows(out)} == {1}
    assert "7 logs: 7 attributed (0 known from before)" in capsys.readouterr().out
    assert run(logs, out, "--json", "--report", str(tmp_path / "r.html")) == 0
    assert out.read_bytes() == first
    assert "</html>" in (tmp_path / "r.html").read_text()
    said = json.loads(capsys.readouterr().out)
    assert (said["logs"], said["kept"], said["answered"], said["actions"]["STOP"]) == (7, 7, 0, 6)


def test_the_attribution_has_the_same_bytes_everywhere(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import httpx

    paths = [running.write("same/a.log"), running.write("same/b.log", NODE_LOG), running.write("same/c.log", "loss: 1.5e-07 é 日本\n" * 50)]
    same_bytes(running, [Path(p) for p in paths], tmp_path, capsys, httpx.get)


def same_bytes(running: Running, paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], get: Any) -> None:
    out = tmp_path / "r.jsonl"
    assert run(paths[0].parent, out) == 0
    in_batch = {row["log_path"]: line for row, line in zip(rows(out), out.read_text().splitlines(), strict=True)}
    capsys.readouterr()
    assert main(["analyze", "--json", *map(str, paths)]) == 0
    analysed = dict(zip(map(str, paths), capsys.readouterr().out.splitlines(), strict=True))
    for path in map(str, paths):
        served = get(f"{running.url}/logs", params={"log_path": path}, timeout=60).text
        assert attribution_of(in_batch[path]) == attribution_of(analysed[path]) == attribution_of(served)
        assert len(attribution_of(served)) > 100


def attribution_of(text: str) -> str:
    """Return the bytes of the JSON object under "attribution", as they stand in the text."""
    key = '"attribution":{'
    start = text.rindex(key) if '"result":' in text else text.index(key)
    found, end = json.JSONDecoder().raw_decode(text, start + len(key) - 1)
    assert "root_cause" in found
    return text[start:end]


def test_a_killed_run_is_taken_up_without_repeating_finished_work(tmp_path: Path) -> None:
    logs, out = tmp_path / "logs", tmp_path / "r.jsonl"
    logs.mkdir()
    for number in range(MANY):
        (logs / f"{number:03}.log").write_text(OOM_LOG + f"{number}\n")
    command = [sys.executable, "-m", "attr_actors.cli", "batch", str(logs), "--out", str(out), "--local", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not out.exists() or not out.stat().st_size:
        assert first.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 0 < len(before) < MANY
    again = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True)
    said = json.loads(again.stdout)
    assert (said["kept"], said["answered"], said["logs"]) == (len(before), MANY - len(before), MANY)
    assert out.read_bytes().splitlines(keepends=True)[: len(before)] == before
    assert Counter(row["log_path"] for row in rows(out)) == {str(p): 1 for p in logs.iterdir()}


def test_what_the_ledger_knows_is_not_analysed_again(logs: Path, tmp_path: Path) -> None:
    assert run(logs, tmp_path / "a.jsonl") == 0
    (logs / "b.log").write_text("it changed\n")
    assert run(logs, tmp_path / "b.jsonl") == 0
    assert {Path(row["log_path"]).name for row in rows(tmp_path / "b.jsonl") if not row["reused"]} == {"b.log"}
    first, second = ({row["log_path"]: row["attribution"] for row in rows(tmp_path / name)} for name in ("a.jsonl", "b.jsonl"))
    changed = str(logs / "b.log")
    assert {k: v for k, v in first.items() if k != changed} == {k: v for k, v in second.items() if k != changed}


def test_a_changed_log_and_a_torn_line_are_answered_anew_and_other_rows_stay(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(logs, out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines)[:-20])
    torn = json.loads(lines[-1])["log_path"]
    (logs / "deep" / "slurm-3.out").write_text(OOM_LOG + "and more\n")
    assert run(logs, out) == 0
    assert Counter(row["log_path"] for row in rows(out)) == {json.loads(line)["log_path"]: 1 for line in lines}
    last = {row["log_path"] for row in rows(out)[-2:]}
    assert last == {torn, str(logs / "deep" / "slurm-3.out")} or torn == str(logs / "deep" / "slurm-3.out")


def test_bad_files_are_rows_and_the_exit_code_says_so(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (logs / "empty.log").touch()
    os.mkfifo(logs / "fifo.log")
    (logs / "dir.log").mkdir()
    (logs / "dangling.log").symlink_to(logs / "nothing")
    Path(os.fsdecode(os.fsencode(logs) + b"/\xff.log")).write_text(OOM_LOG)
    out = tmp_path / "r.jsonl"
    assert run(logs, out) == 3
    faults = {Path(row["log_path"]).name: row["error_code"] for row in rows(out) if row["error_code"]}
    assert faults == {"empty.log": "empty_file", "fifo.log": "not_regular", "dangling.log": "not_found", "\\xff.log": "invalid_path"}
    assert all(row["attribution"] is None for row in rows(out) if row["error_code"])
    assert "4 could not be analysed" in capsys.readouterr().out
    assert run(logs, out) == 3
    assert Counter(Counter(row["log_path"] for row in rows(out)).values()) == {1: 11}


@pytest.mark.parametrize("form", ["directory", "glob", "list", "@list", "-", "one log"])
def test_targets_are_directories_globs_lists_and_single_logs(
    form: str, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "list"
    names = sorted(map(str, logs.rglob("*.out")))
    listed.write_text("\n".join(names) + "\n\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed.read_text()))
    targets = {"directory": str(logs / "deep"), "glob": f"{logs}/**/*.out", "list": str(listed), "@list": f"@{listed}", "-": "-"}
    found = find_logs(targets.get(form, names[0]))
    assert sorted(log.path for log in found) == (names[:1] if form == "one log" else names)
    assert all(log.size and log.user for log in found)


def test_nothing_to_do_and_unwritable_results_are_said_at_once(tmp_path: Path, logs: Path) -> None:
    with pytest.raises(NotFound, match="no logs found"):
        find_logs(str(tmp_path / "*.nothing"))
    with pytest.raises(NotFound, match="cannot read the list"):
        find_logs("@/none")
    with pytest.raises(InvalidParameter, match="cannot write the results"):
        ResultsFile(str(logs))
    with ResultsFile(str(tmp_path / "r.jsonl")), pytest.raises(Unavailable, match="another batch"):
        ResultsFile(str(tmp_path / "r.jsonl"))


def test_rows_of_another_engine_go_and_rows_of_other_targets_stay(tmp_path: Path) -> None:
    def row(path: str, engine: str, size: int = 1) -> bytes:
        found = ResultRow(log_path=path, size=size, mtime_ns=2, engine=engine, attribution=ANSWER)
        return found.model_dump_json().encode()

    out = tmp_path / "r.jsonl"
    with ResultsFile(str(out)) as file:
        file.append([row("/old", "e0"), row("/same", "e1"), row("/grown", "e1", size=9), row("/elsewhere", "e0")])
        kept: list[str] = []
        todo = file.take_up([FoundLog(p, p, 1, 2) for p in ("/old", "/same", "/grown", "/new")], "e1", lambda r: kept.append(r.log_path))
        assert kept == ["/same", "/elsewhere"]
        assert [log.path for log in todo] == ["/old", "/grown", "/new"]
        file.append([b"{}"])
    assert [json.loads(line).get("log_path") for line in out.read_text().splitlines()] == ["/same", "/elsewhere", None]


def efforts(sizes: Sequence[int], cpus: int, logs_max: int = CHUNK_LOGS) -> list[list[int]]:
    logs = [FoundLog(str(i), size=size) for i, size in enumerate(sizes)]
    chunks = list(cut(logs, lambda: cpus, logs_max))
    assert [log for chunk in chunks for log in chunk] == logs
    return [[effort(log) for log in chunk] for chunk in chunks]


def test_chunks_are_bounded_in_work_and_number() -> None:
    chunks = efforts([2 * CHUNK_EFFORT_MAX, CHUNK_EFFORT_MAX, *[30_000_000] * 100, *[1000] * 9000], cpus=1)
    assert all(len(chunk) == 1 or sum(chunk) <= CHUNK_EFFORT_MAX for chunk in chunks)
    assert sum(sum(chunk) > CHUNK_EFFORT_MAX * 0.9 for chunk in chunks) > 20
    assert max(map(len, efforts([0] * 100_000, cpus=1))) == CHUNK_LOGS
    assert sum(efforts([10**8] * 100_000, cpus=500)[0]) > 5 * CHUNK_EFFORT_MAX
    assert set(map(len, efforts([0] * 1000, cpus=1, logs_max=16)[:-1])) == {16}


def test_chunks_shrink_towards_the_end_and_small_batches_are_shared_out() -> None:
    for cpus in (2, 8):
        works = [sum(chunk) for chunk in efforts([1_000_000] * 3000, cpus)]
        assert max(works[-2 * cpus :]) <= CHUNK_EFFORT_MIN
        after = [sum(works[place:]) for place in range(len(works))]
        assert all(work <= max(CHUNK_EFFORT_MIN, left / (CHUNKS_LEFT_PER_CPU * cpus)) for work, left in zip(works, after, strict=True))
    assert len(efforts([1000] * 640, cpus=1)) > 10


def test_chunks_in_flight_are_bounded() -> None:
    workers = TwinWorkers()
    found = work(workers, [FoundLog(str(i), size=CHUNK_EFFORT_MAX) for i in range(50)])
    assert len(found) == 50
    assert workers.most <= 2 * batch.CHUNKS_PER_CPU


def test_a_log_that_ends_its_readers_is_a_row_and_its_chunk_is_answered() -> None:
    workers = TwinWorkers({"/bad": 99, "/unlucky": 2})
    found = work(workers, [FoundLog(p, size=1) for p in ("/a", "/bad", "/unlucky", "/b")])
    assert {row.log_path: row.error_code for row in found} == {"/a": None, "/bad": "analysis_failed", "/unlucky": None, "/b": None}
    assert workers.asked.count(["/bad"]) == batch.TRIES


def test_a_dead_process_of_the_pool_is_replaced(logs: Path) -> None:
    log = find_logs(str(logs / "b.log"))

    async def main() -> list[Answer]:
        with LocalWorkers(1) as workers:
            job = Job(Settings.load(allowed_root="/").engine, "e", 60.0)  # With its cache of compiled rows.
            await workers.answer(job, log)
            os.kill(next(iter(workers._pool._processes)), signal.SIGKILL)
            with pytest.raises(WorkerDied):
                await asyncio.gather(*(workers.answer(job, log) for _ in range(3)))
            return await workers.answer(job, log)

    assert asyncio.run(main())[0].digest.action == "CONTINUE"


class Hook(Loopback):
    """A webhook's receiver."""

    def answer(self, request: Request) -> Reply:
        return Reply(200, {})


def test_only_post_sends_to_the_sinks_and_only_once(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook()
    with hook.serving():
        monkeypatch.setenv("NVRX_ATTRSVC_EXPORT_URL", f"{hook.url}/hook")
        assert run(logs, tmp_path / "quiet.jsonl") == 0
        assert not hook.requests
        assert run(logs, tmp_path / "told.jsonl", "--post") == 0
        assert len({request.body for request in hook.requests}) == 7
        assert run(logs, tmp_path / "again.jsonl", "--post") == 0
        assert len(hook.requests) == 7


def test_a_second_batch_meanwhile_works_without_the_ledger(logs: Path, tmp_path: Path) -> None:
    settings = batch.ledger_settings(Settings.load(allowed_root="/"), post=False)
    from attr_actors.actors.ledger import Ledger

    held = Ledger(settings)
    plan = Plan(str(logs), str(tmp_path / "r.jsonl"), local=True, workers=1)
    done = asyncio.run(run_batch(plan, Settings.load(allowed_root="/"), lambda *_: lambda _digests: None))
    held.close()
    assert done.summary.answered == 7


def test_the_summary_names_what_came_again_and_who_is_suspect(tmp_path: Path) -> None:
    summary = Summary()
    for number in range(3):
        summary.add(Digest(f"/l/{number}", None, "", "STOP", "storage", "k1", "Disk full.", 7, ("node3",), "ann", f"job{number}"))
    summary.add(Digest("/l/ok", action="CONTINUE", category="none", cause_key="ok", cause="Nothing failed."))
    summary.add(Digest("/l/bad", "empty_file", "empty"))
    text = render_summary(summary)
    assert "5 logs: 4 attributed (0 known from before), 1 could not be analysed" in text
    assert "     3 x Disk full.  (for example /l/0)" in text
    assert "suspect: node3, named by 3 jobs" in text
    assert "by user      ann 3" in text
    assert "ok" not in summary.causes


def test_the_report_shows_log_text_as_text(tmp_path: Path) -> None:
    summary = Summary()
    for _ in range(2):
        summary.add(Digest("/l/<b>x</b>", action="STOP", category="data", cause_key="k", cause="<script>alert(1)</script>", job="j"))
    write_report(str(tmp_path / "r.html"), summary, "/l/*")
    html = (tmp_path / "r.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;x" in html
    with pytest.raises(InvalidParameter, match="cannot write the report"):
        write_report(str(tmp_path), summary, "/l")


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_lines_in_a_job_log_and_a_bar_on_a_terminal(terminal: bool) -> None:
    said: list[str] = []
    now = [0.0]
    progress = Progress(said.append, terminal, lambda: now[0])
    tell = progress.watch(4, 4_000_000, kept=2)
    for seconds in (1.0, 11.0, 12.0, 22.0):
        now[0] = seconds
        tell([Digest("/a", error_code="empty_file" if seconds == 11.0 else None, log_bytes=1_000_000)])
    assert said[0] == "4 logs to attribute, 0.00 GB (2 answered by an earlier run)\n"
    assert said[-1].count("4/4 logs, 0 logs/s, 0 MB/s, 1 faults, 0 s left") == 1
    if terminal:
        assert all(line.startswith("\r[") for line in said[1:])
        assert len(said) == 5
    else:
        assert [line.split(",")[0] for line in said[1:]] == ["2/4 logs", "4/4 logs"]


def test_an_analysis_that_hangs_becomes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from attr_actors import batch_work

    asked: list[str] = []
    over = threading.Event()

    class Stuck:
        def analyze(self, log: LogPath) -> None:
            asked.append(log.path)
            assert log.path != "/dev" or over.wait(60)
            raise EmptyFile("empty")

    monkeypatch.setattr(batch_work, "engine_of", lambda config: Stuck())
    found = batch_work.analyse_logs(EngineConfig(), ["/tmp", "/dev", "/tmp", "/dev", "/"], timeout_s=0.2)
    over.set()
    assert [type(each) for each in found] == [EmptyFile, Unavailable, EmptyFile, Unavailable, EmptyFile]
    assert asked == ["/tmp", "/dev", "/tmp", "/dev", "/"]  # What was left behind goes no further.


def test_a_fault_of_the_analysis_itself_is_a_row_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    from attr_actors import batch_work

    class Failing:
        def analyze(self, log: LogPath) -> None:
            raise EmptyFile("empty") if log.path == "/tmp" else ZeroDivisionError

    monkeypatch.setattr(batch_work, "engine_of", lambda config: Failing())
    found = batch_work.analyse_logs(EngineConfig(), ["/tmp", "/", "/tmp"], 5)
    assert [type(each) for each in found] == [EmptyFile, AnalysisFailed, EmptyFile]


def test_a_chunk_asks_the_ledger_once_and_joins_what_the_service_analyses_now(logs: Path) -> None:
    class Ledger:
        asked: ClassVar[list[tuple[str, ...]]] = []
        recorded: ClassVar[list[str]] = []

        async def lookup_many(self, paths: tuple[str, ...]) -> tuple[Analysis | None, ...]:
            self.asked.append(paths)
            return tuple(stored if path == stored.snapshot.path else None for path in paths)

        async def record(self, recordings: tuple[Recording, ...]) -> None:
            self.recorded += [recording.analysis.snapshot.path for recording in recordings]

    class Busy(TwinAnalyzer):
        async def flights(self) -> tuple[Flight, ...]:
            return (Flight(path=found[1].real, started_at=0, elapsed_s=1, waiters=0),)

        async def analyze(self, request: AnalyzeRequest) -> Analysis:
            return (await super().analyze(request)).model_copy(update={"engine": "e"})

    def analysed(log: FoundLog) -> Analysis:
        seen = Snapshot(path=log.real, size=log.size or 0, mtime_ns=log.mtime_ns or 0)
        return Analysis(snapshot=seen, engine="e", cycles=(ANSWER,), result_id="0" * 64, analysed_at=0.0)

    async def analyse(paths: Sequence[str]) -> Analysed:
        return tuple(analysed(log) for log in found if log.path in paths)

    found = find_logs(str(logs))
    stored = analysed(found[0])
    analyzer = Busy()
    job = Job(EngineConfig(), "e", 60.0, cast(LedgerHandle, Ledger()), (analyzer,))
    answers = asyncio.run(answer_logs(job, found, analyse))
    assert [answer.digest.reused for answer in answers] == [True, True, *[False] * (len(found) - 2)]
    assert [request.path for request in analyzer.requests] == [found[1].real]
    assert Ledger.asked == [tuple(log.real for log in found)]
    assert Ledger.recorded == [log.real for log in found[2:]]
