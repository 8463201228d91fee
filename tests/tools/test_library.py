"""The Python API: what a program gets that imports the library instead of asking a service."""

from __future__ import annotations

import asyncio
import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attr_actors
from attr_actors import AnalyzerConfig, AttributionService, LogAnalyzer, library, setup
from attr_actors.errors import BadSettings, EmptyFile, InvalidParameter, LedgerFault, NotFound, OutsideRoot, Unavailable
from attr_actors.models import Action, JobMode
from tests.api.conftest import OOM_LOG
from tests.tools.conftest import Running

REPO = Path(__file__).resolve().parent.parent.parent

USER_SCRIPT = """
import asyncio

from attr_actors import AnalyzerConfig, AttributionService, LogAnalyzer, setup
from attr_actors.client import AsyncAttributionClient, AttributionClient
from attr_actors.errors import AttrError, OutsideRoot
from attr_actors.models import Attribution


async def why(path: str) -> Attribution | None:
    async with LogAnalyzer(AnalyzerConfig(allowed_root="/logs", compute_timeout=30)) as analyzer:
        submitted = await analyzer.submit(path, user="alice", job_id="12345")
        where: str = submitted.normalized_path
        answer = await analyzer.analyze(where)
        for job in (await analyzer.get_all_jobs()).jobs:
            print(job.user, job.mode.value)
        return answer.attribution


async def twin(path: str) -> str:
    service = AttributionService(setup())
    try:
        reply = await service.analyze_log(path)
        return reply.recommendation.action if reply.recommendation else "UNKNOWN"
    except OutsideRoot as exc:
        return exc.message
    except AttrError as exc:
        return exc.code
    finally:
        service.shutdown()


def ask(path: str) -> str:
    with AttributionClient("http://127.0.0.1:8000", api_key="key") as client:
        where: str = client.submit(path, user="alice", job_id="12345").normalized_path
        reply = client.result(where, timeout_s=30)
        return reply.recommendation.action if reply.recommendation else client.health().status


async def count() -> int:
    async with AsyncAttributionClient("http://127.0.0.1:8000") as client:
        jobs: list[str] = [job.path for job in (await client.jobs(limit=10)).jobs]
        return len(jobs) + (await client.inflight()).count


if __name__ == "__main__":
    found = asyncio.run(why("/logs/slurm-12345.out"))
    if found is not None and found.action == "STOP":
        lines: list[int] = [line.line_number for line in found.root_lines]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    logs.mkdir()
    return logs


def write(root: Path, name: str, text: str = OOM_LOG) -> str:
    path = root / name
    path.write_text(text)
    return str(path)


def test_the_docstring_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NVRX_ATTRSVC_ALLOWED_ROOT", "NVRX_ATTRSVC_CACHE_FILE"):  # The examples set them; put them back afterwards.
        monkeypatch.setenv(name, "")
    ran = doctest.testmod(library, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert ran.attempted >= 10
    assert ran.failed == 0


def test_the_predecessors_example_runs_without_await_at_the_end(root: Path) -> None:
    path = write(root, "slurm-12345.out")

    async def main() -> None:
        analyzer = LogAnalyzer(AnalyzerConfig(allowed_root=str(root)))
        result = await analyzer.submit(path, user="alice", job_id="12345")
        analysis = await analyzer.analyze(path)
        assert (result.normalized_path, analysis.status) == (path, "completed")
        assert analysis.attribution
        assert analysis.attribution.action is Action.STOP
        assert "Traceback" in await analyzer.read_file_preview(path)
        assert (await analyzer.get_stats())["compute"]["completed"] == 1
        assert [(job.user, job.job_id) for job in (await analyzer.get_all_jobs()).jobs] == [("alice", "12345")]
        analyzer.shutdown()

    asyncio.run(main())


def test_shutdown_can_be_awaited_and_repeated_and_later_calls_say_so(root: Path) -> None:
    async def main() -> None:
        analyzer = LogAnalyzer(AnalyzerConfig(allowed_root=str(root)))
        await analyzer.shutdown()
        analyzer.shutdown()
        with pytest.raises(Unavailable, match="shut down"):
            await analyzer.get_stats()

    asyncio.run(main())


def test_one_analyzer_serves_several_event_loops(root: Path) -> None:
    analyzer = LogAnalyzer(AnalyzerConfig(allowed_root=str(root)))
    path = write(root, "a.log")
    first, second = asyncio.run(analyzer.analyze(path)), asyncio.run(analyzer.analyze(path))
    analyzer.shutdown()
    assert first.model_dump_json() == second.model_dump_json()


def test_callers_of_one_path_share_one_analysis(root: Path) -> None:
    async def main() -> None:
        async with LogAnalyzer(AnalyzerConfig(allowed_root=str(root))) as analyzer:
            path = write(root, "a.log")
            answers = await asyncio.gather(*(analyzer.analyze(path) for _ in range(20)))
            assert len({answer.model_dump_json() for answer in answers}) == 1
            assert (await analyzer.get_stats())["compute"]["completed"] == 1

    asyncio.run(main())


def test_faults_are_the_services_typed_errors(root: Path) -> None:
    async def main() -> None:
        async with LogAnalyzer(AnalyzerConfig(allowed_root=str(root))) as analyzer:
            with pytest.raises(OutsideRoot):
                await analyzer.analyze("/etc/passwd")
            with pytest.raises(NotFound):
                await analyzer.analyze(f"{root}/none.log")
            with pytest.raises(EmptyFile):
                await analyzer.analyze(write(root, "empty.log", ""))
            with pytest.raises(InvalidParameter):
                await analyzer.analyze(write(root, "a.log"), wl_restart=7)

    asyncio.run(main())
    with pytest.raises(BadSettings, match="ALLOWED_ROOT"):
        AnalyzerConfig(allowed_root=str(root / "none"))
    with pytest.raises(BadSettings, match="there is no setting 'typo'"):
        AnalyzerConfig(allowed_root=str(root), typo=1)


def test_a_splitlog_job_is_followed_into_its_directory(root: Path) -> None:
    logs = root / "split"
    logs.mkdir()
    head = f"<< START PATHS >>\nLOGS_DIR={logs}\n<< END PATHS >>\n" + "x" * 4096 + "\n"
    path = write(root, "slurm-77.out", head)
    (logs / "m_77_cycle0.log").write_text("step 1\n" * 600)
    (logs / "m_77_cycle1.log").write_text(OOM_LOG)

    async def main() -> None:
        async with LogAnalyzer(AnalyzerConfig(allowed_root=str(root))) as analyzer:
            assert (await analyzer.submit(path, job_id="77")).mode is JobMode.SPLITLOG
            answer = await analyzer.analyze(path)
            assert (answer.mode, answer.log_file) == (JobMode.SPLITLOG, str(logs / "m_77_cycle1.log"))

    asyncio.run(main())


def test_the_twin_keeps_its_answers_in_the_services_ledger(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVRX_ATTRSVC_ALLOWED_ROOT", str(root))
    monkeypatch.setenv("NVRX_ATTRSVC_CACHE_FILE", str(tmp_path / "ledger.db"))
    path = write(root, "a.log")

    def ask() -> tuple[str | None, float]:
        service = AttributionService(setup())
        reply, stats = asyncio.run(service.analyze_log(path)), asyncio.run(service.get_stats())
        service.shutdown()
        return reply.result.result_id, stats["compute"].get("completed", 0)

    first, again = ask(), ask()
    assert (first[1], again[1]) == (1, 0)
    assert first[0] == again[0]


def test_the_twin_refuses_a_ledger_that_somebody_else_writes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVRX_ATTRSVC_ALLOWED_ROOT", str(root))
    monkeypatch.setenv("NVRX_ATTRSVC_CACHE_FILE", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("NVRX_ATTRSVC_LEDGER_LOCK_WAIT_S", "0")
    first, second = AttributionService(setup()), AttributionService(setup())
    with pytest.raises(LedgerFault):
        asyncio.run(second.analyze_log(write(root, "a.log")))
    second.shutdown()
    first.shutdown()


@pytest.mark.parametrize("number", [0, 1])
def test_the_readmes_examples_run(number: int, running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    path = running.write(f"readme-{number}/slurm-1234.out")
    example = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.S)[number]
    for shown, real in (("/logs/slurm-1234.out", path), ("http://127.0.0.1:8000", running.url), ('"/logs"', repr(str(running.root)))):
        example = example.replace(shown, real)
    exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("STOP ")


def test_a_users_script_and_the_readmes_examples_pass_mypy_strict(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(USER_SCRIPT)
    cache = REPO / ".mypy_cache" / "user_script"  # Kept, because reading the libraries anew takes ten seconds.
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path = {REPO}\ncache_dir = {cache}\n")
    examples = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.S)
    assert len(examples) == 2
    for number, example in enumerate(examples):
        (tmp_path / f"example_{number}.py").write_text(example)
    check = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini", "--follow-imports=silent", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = attr_actors.nonsense
