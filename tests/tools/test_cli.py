"""The command line as a person and a script see it: golden output at two widths, exit codes, colours, and how fast help comes.

The golden files are written anew with UPDATE_GOLDEN=1.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from attr_actors.cli import build_parser, main
from attr_actors.cli_completion import _actions
from attr_actors.cli_monitor import OPTIONS
from attr_actors.cli_output import wants_colour
from attr_actors.models import Action, Attribution, Cascade, Category, Line, Suspect
from attr_actors.monitor_settings import MonitorSettings
from serve_app.bodies import HealthReply, ResultBody, ResultReply, SubmitReply
from tests.api.conftest import OOM_LOG
from tests.loopback import Loopback, Reply, Request, status

REPO = Path(__file__).resolve().parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
COMMANDS = (
    "", "serve", "config", "demo", "analyze", "batch", "submit", "result", "stats", "health", "jobs", "ledger", "ledger export", "outbox",
    "outbox list", "signatures", "signatures list", "signatures test", "monitor", "mcp", "completion",
)  # fmt: skip
NODE_DOWN = Attribution(
    action=Action.EXCLUDE,
    category=Category.GPU_HARDWARE,
    signature="xid_79",
    owner="infrastructure",
    rule="hardware_fact",
    root_cause="GPU 3 of node17 fell off the bus (Xid 79), and the collective of all other ranks timed out because of it.",
    root_lines=(
        Line(
            line_number=48_213,
            byte_offset=1,
            text="NVRM: Xid (PCI:0000:4e:00): 79, pid=1234, GPU has fallen off the bus.",
            rank=3,
            node="node17",
        ),
        Line(line_number=48_220, byte_offset=2, text="\x1b[31m[rank3]: CUDA error: " + "unspecified launch failure " * 9),
    ),
    cascade=(
        Cascade(
            signature="nccl_timeout", count=63, first=Line(line_number=48_400, byte_offset=3, text="Watchdog caught collective timeout")
        ),
    ),
    suspects=(Suspect(kind="node", name="node17", reason="its GPU reports Xid 79"),),
    exclude_nodes=("node17",),
    confidence=0.95,
    coverage="partial",
    coverage_note="the file grew while it was read",
)
JOB = {
    "job_id": "7", "log_path": "/logs/slurm-7.out", "path": "/logs/slurm-7.out", "user": "ann", "mode": "splitlog", "created_at": 0.0,
    "terminated": True, "sched_restarts": 1, "logs_dir": "/logs/7", "log_files": [], "files_count": 3, "files_analyzed": 2,
}  # fmt: skip


class Service(Loopback):
    """Answers like the service, always the same."""

    answers: dict[str, Any]

    def answer(self, request: Request) -> Reply:
        route = f"{request.method} {request.path.partition('?')[0]}"
        return Reply(200, self.answers[route].encode())


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    twin = Service()
    job = {**JOB, "created_at": time.time() - 3.5 * 3600}
    groups = {mode: {"count": 0, "jobs": []} for mode in ("pending", "single", "splitlog")}
    totals = {"pending": 0, "single": 1, "splitlog": 1}
    jobs = [job, {**job, "job_id": None, "mode": "single", "terminated": False, "user": "b\x1b[31mob"}]
    result = ResultReply(result=ResultBody(state="complete", result_id="0" * 64), status="completed", attribution=NODE_DOWN)
    twin.answers = {
        "GET /logs": result.model_dump_json(),
        "POST /logs": SubmitReply(normalized_path="/logs/slurm-7.out", mode="splitlog", logs_dir="/logs/7").model_dump_json(),
        "GET /jobs": json.dumps({"total_counts": totals, "filter": {}, "returned": 2, "jobs": jobs, **groups}),
        "GET /stats": json.dumps({"cache": {"hits": 12, "misses": 3}, "slack": {}, "compute": {"completed": 3, "seconds": 0.25}}),
        "GET /healthz": HealthReply(status="degraded", issues=["notifier-slack: SinkError: 503"]).model_dump_json(),
    }
    with twin.serving():
        yield twin


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as exc:
        code = int(exc.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def agrees(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c or "nvrx-attrsvc")
def test_help_is_as_agreed(command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= max(width, 120)  # Examples are not wrapped.
    agrees(f"help-{command.replace(' ', '-') or 'nvrx-attrsvc'}-{width}", out)


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize(
    ("name", "argv", "code"),
    [
        ("result", ("result", "/logs/slurm-7.out"), 0),
        ("submit", ("submit", "/logs/slurm-7.out", "--job-id", "7"), 0),
        ("jobs", ("jobs",), 0),
        ("stats", ("stats",), 0),
        ("health", ("health",), 3),
    ],
)
def test_answers_are_as_agreed(
    name: str,
    argv: tuple[str, ...],
    code: int,
    width: int,
    service: Service,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    found, out, err = run(capsys, *argv, "--url", service.url)
    assert (found, err) == (code, "")
    assert "\x1b" not in out
    agrees(f"{name}-{width}", out)


def test_options_reach_the_service(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "submit", "/l", "--user", "ann", "--cycle-id", "2", "--intent", "terminal", "--url", service.url)
    assert json.loads(service.requests[-1].body) == {"log_path": "/l", "user": "ann", "cycle_id": 2, "analysis_intent": "terminal"}
    run(capsys, "result", "/l", "--file", "a.log", "--wl-restart", "1", "--no-wait", "--timeout", "7", "--url", service.url)
    wanted = {"log_path": ["/l"], "file": ["a.log"], "wl_restart": ["1"], "wait": ["false"], "timeout_s": ["7.0"]}
    assert parse_qs(urlsplit(service.requests[-1].path).query) == wanted
    code, out, _ = run(capsys, "health", "--ready", "--url", service.url)
    assert service.requests[-1].path == "/healthz?ready=true"
    assert (code, out) == (0, "ready, degraded\n  notifier-slack: SinkError: 503\n")


def test_each_option_of_the_monitor_is_a_setting_and_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MonitorSettings] = []

    class Told(Exception):
        pass

    def load(**given: Any) -> MonitorSettings:
        seen.append(MonitorSettings(**given))
        raise Told

    monkeypatch.setattr(MonitorSettings, "load", load)
    monkeypatch.setenv("NVRX_SMONSVC_USER", "bob")
    values = {
        "attrsvc_url": "http://h:1", "partitions": "a b", "user": "ann", "job_pattern": "x.*", "interval": 5.0, "timeout": 6.0,
        "lookback": 70.0, "host": "::1", "port": 9, "state_file": "/s",
    }  # fmt: skip
    with pytest.raises(Told):
        main(["monitor", "--verbose", *(word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value)))])
    assert set(values) == set(OPTIONS)
    assert seen[0].model_dump(include={*values, "verbose"}) == {**values, "verbose": True}


def test_a_service_that_is_not_ready_fails_who_asks_for_that(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"status": "degraded", "issues": ["ledger: takes longer than 2 s to tell how it is"]}
    service.faults.extend([status(503, body)] * 2)
    code, out, _ = run(capsys, "health", "--ready", "--url", service.url)
    assert (code, out) == (1, f"not ready, degraded\n  {body['issues'][0]}\n")
    code, out, _ = run(capsys, "health", "--ready", "--json", "--url", service.url)
    assert (code, json.loads(out)) == (1, body)


@pytest.mark.parametrize("argv", [("result", "/l"), ("submit", "/l"), ("stats",), ("health",), ("jobs",)], ids=lambda a: a[0])
def test_json_is_the_services_own_reply(argv: tuple[str, ...], service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *argv, "--url", service.url, "--json")
    route = {"result": "GET /logs", "submit": "POST /logs", "health": "GET /healthz"}.get(argv[0], f"GET /{argv[0]}")
    said = json.loads(service.answers[route])
    assert [json.loads(line) for line in out.splitlines()] == (said["jobs"] if argv[0] == "jobs" else [said])


def test_analyze_answers_each_file_and_says_in_the_exit_code_that_one_could_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    good, empty = tmp_path / "good.log", tmp_path / "empty.log"
    good.write_text(OOM_LOG)
    empty.touch()
    code, out, _ = run(capsys, "analyze", str(good))
    assert code == 0
    assert "STOP" in out
    assert "line 9" in out
    assert "\x1b" not in out
    code, out, _ = run(capsys, "analyze", str(good), str(empty), "none.log", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert [row["error_code"] for row in rows] == [None, "empty_file", "not_found"]
    assert [row["log_path"] for row in rows] == [str(good), str(empty), str(tmp_path / "none.log")]
    assert rows[0]["attribution"]["action"] == "STOP"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("nonsense",), 2, "invalid choice"),
        (("health", "--url", "http://127.0.0.1:9"), 1, "did not answer"),
        (("health", "--url", "nonsense"), 2, "not an http or https URL"),
        (("config",), 2, "NVRX_ATTRSVC_ALLOWED_ROOT: is required"),
        (("signatures", "test", "--dir", "/none"), 1, "'/none' is not a readable directory"),
    ],
)
def test_faults_have_an_exit_code_and_one_sentence(
    argv: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capsys, *argv)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_signatures_are_listed_and_an_operators_rows_are_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "signatures", "list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {"id", "regex", "category", "why", "example"} <= set(rows[0])
    _, out, _ = run(capsys, "signatures", "list", "--category", "storage")
    assert out.count("storage") >= sum(row["category"] == "storage" for row in rows)
    own = tmp_path / "own.toml"
    own.write_text(
        '[[signature]]\nid = "site_quota"\nrole = "P"\nregex = "SITE-QUOTA-\\\\d+"\nexample = "SITE-QUOTA-7 exceeded"\n'
        'why = "The site says so."\n'
        'category = "storage"\ntier = 1\nowner = "storage"\naction = "STOP"\nsource = "V"\n'
    )
    code, out, _ = run(capsys, "signatures", "test", "--dir", str(tmp_path), "--line", "x SITE-QUOTA-9 y")
    assert code == 0
    assert "1 of them own" in out
    assert "matches site_quota" in out
    own.write_text(own.read_text().replace("SITE-QUOTA-7", "SITE-QUOTA-x"))
    code, _, err = run(capsys, "signatures", "test", "--dir", str(tmp_path))
    assert code == 1
    assert "own.toml: row 'site_quota': the regex does not match the row's own example" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_completion_knows_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "analyze" in out
    assert "signatures" in out


def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, script, _ = run(capsys, "completion", "bash")
    (tmp_path / "completion.sh").write_text(script)
    ask = """
        source completion.sh; COMP_WORDS=(nvrx-attrsvc result --wl); COMP_CWORD=2
        $(complete -p nvrx-attrsvc | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); echo "${COMPREPLY[@]}"
    """
    found = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert "--wl-restart" in found.stdout, found.stderr


def test_every_argument_has_a_help_text_or_a_telling_name() -> None:
    nameless = [a.dest for a in _actions(build_parser()) if a.option_strings and not a.help]
    assert not set(nameless) - {"cycle_id", "sink", "state"}


def test_colour_is_for_terminals_only(service: Service) -> None:
    command = [sys.executable, "-m", "attr_actors.cli", "result", "/logs/a", "--url", service.url]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    assert "\x1b" not in subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert "\x1b[1;36mRESTART WITHOUT node17\x1b[0m" in on_a_terminal(command, environment)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_can_refuse_colour(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert wants_colour()
    monkeypatch.setenv(name, value)
    assert not wants_colour()


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run a command with a terminal as its standard output and return what it wrote."""
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdout=slave, env=environment):
        os.close(slave)
        seen = b""
        while chunk := _read(master):
            seen += chunk
    os.close(master)
    return seen.decode()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # Linux says EIO when the other side has closed.
        return b""


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from attr_actors.cli import main\ntry: main(['analyze', '--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout.splitlines()[-1]
    assert not [name for name in ("ray", "pydantic", "httpx", "fastapi", "mcp", "asyncio", "jinja2", "shtab") if f"'{name}'" in shown]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c or "nvrx-attrsvc")
def test_help_comes_within_a_tenth_of_a_second(command: str) -> None:
    """Processor time, and up to five tries, so that other work on the machine does not count."""
    argv = [sys.executable, "-m", "attr_actors.cli", *command.split(), "--help"]
    assert any(processor_s(argv) < 0.1 for _ in range(5))


def processor_s(argv: list[str]) -> float:
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd=REPO)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    assert status == 0
    return usage.ru_utime + usage.ru_stime
