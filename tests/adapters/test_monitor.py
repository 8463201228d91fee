"""The Slurm monitor over a scripted Slurm and a server that answers like the service."""

from __future__ import annotations

import json
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attr_actors.adapters.slurm_commands import SlurmCommands
from attr_actors.client import AttributionClient
from attr_actors.core.job_watch import TRIES_MAX
from attr_actors.core.slurm import Phase, SlurmJob
from attr_actors.errors import AttrError, BadSettings, SlurmError
from attr_actors.monitor import PATIENCE, Monitor, sole_owner
from attr_actors.monitor_settings import MonitorSettings
from attr_actors.monitor_status import health, status_endpoint
from tests.attribution_twin import AttributionTwin

NOW = 1_790_000_000.0


class ScriptedSlurm:
    """Slurm as far as the monitor sees it; ``fail`` names the questions that end in an error."""

    def __init__(self) -> None:
        self.known: list[SlurmJob] = []
        self.ended: list[SlurmJob] = []
        self.outputs: dict[str, str] = {}
        self.scripts: dict[int, str] = {}
        self.fail: set[str] = set()
        self.asked_since: list[float] = []

    def known_jobs(self) -> list[SlurmJob]:
        if "squeue" in self.fail:
            raise SlurmError("'squeue' failed: controller down")
        return self.known

    def ended_jobs(self, since: float) -> list[SlurmJob]:
        self.asked_since.append(since)
        if "sacct" in self.fail:
            raise SlurmError("'sacct' failed: database down")
        return self.ended

    def output_path(self, job_id: str) -> str | None:
        return self.outputs.get(job_id)

    def script(self, raw_id: int) -> str:
        return self.scripts.get(raw_id, "")


def job(raw_id: int, phase: Phase = Phase.ENDED, **fields: object) -> SlurmJob:
    state = {"waiting": "PENDING", "running": "RUNNING", "ended": "FAILED"}[phase]
    ended_at = NOW - 5 if phase is Phase.ENDED else None
    base = SlurmJob(raw_id, str(raw_id), state, phase, "gpu", "ada", "n1", NOW - 50, ended_at, "/w", "train")
    return replace(base, **fields)  # type: ignore[arg-type]


@pytest.fixture
def twin() -> Iterator[AttributionTwin]:
    server = AttributionTwin()
    yield server
    server.close()


@pytest.fixture
def slurm() -> ScriptedSlurm:
    return ScriptedSlurm()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def make(
    twin: AttributionTwin, slurm: ScriptedSlurm, said: list[str], naps: list[float], tmp_path: Path
) -> Iterator[Callable[..., Monitor]]:
    clients = []

    def build(as_json: bool = False, url: str = twin.url, **given: object) -> Monitor:
        settings = MonitorSettings.load(attrsvc_url=url, state_file=str(tmp_path / "monitor.json"), **given)
        client = AttributionClient(url, patience=PATIENCE, pause=naps.append)
        clients.append(client)
        return Monitor(settings, slurm, client, said.append, as_json=as_json, clock=lambda: NOW)

    yield build
    for client in clients:
        client.close()


def test_a_job_is_announced_when_it_runs_and_answered_when_it_ended(
    make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm, said: list[str]
) -> None:
    monitor = make()
    slurm.known, slurm.outputs = [job(7, Phase.RUNNING)], {"7": "/w/%j.out"}
    assert monitor.look()
    assert twin.posts == [{"log_path": "/w/7.out", "user": "ada", "job_id": "7", "analysis_intent": "track_only"}]
    slurm.known, slurm.ended = [], [job(7, exit_code="1:0")]
    assert monitor.look()
    assert (twin.terminal(), twin.gets) == (["7"], ["/w/7.out"])
    assert said == ["7 train (ada)  FAILED exit 1:0  ->  STOP  wrong config in /w/7.out\n    line 7: KeyError: 'lr'\n    log: /w/7.out"]
    assert monitor.look()
    assert len(twin.gets) == 1


def test_of_twenty_array_tasks_the_two_that_ended_between_looks_are_answered_as_well(
    make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm
) -> None:
    monitor = make()
    tasks = [job(100 + i, Phase.RUNNING, job_id=f"100_{i}") for i in range(18)]
    slurm.known, slurm.outputs = tasks, {t.job_id: "/w/slurm-%A_%a.out" for t in tasks}
    monitor.look()
    slurm.known = []
    slurm.ended = [job(100 + i, job_id=f"100_{i}", submit_line="sbatch --array=0-19 t.sh") for i in range(20)]
    assert monitor.look()
    assert sorted(twin.gets) == sorted(f"/w/slurm-100_{i}.out" for i in range(20))


def test_a_service_that_is_down_delays_answers_and_a_killed_monitor_forgets_none(
    make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm
) -> None:
    slurm.ended = [job(7, log_path="/w/7.out"), job(8, log_path="/w/8.out")]
    down = make(url="http://127.0.0.1:9")
    assert not down.look()
    assert "did not answer" in down.issues[0]
    slurm.ended = []  # Accounting may drop them meanwhile.
    assert make().look()
    assert twin.gets == ["/w/7.out", "/w/8.out"]


BUSY = {"error_code": "rate_limited", "message": "60 per minute", "details": None}


@pytest.mark.parametrize(
    ("reply", "nap"),
    [((429, {"Retry-After": "7"}, BUSY), 7.0), ((503, {"Retry-After": "2"}, {"message": "starting"}), 2.0), ((502, {}, b"<html>"), None)],
)
def test_a_busy_service_is_asked_again_within_the_look(
    reply: tuple[int, dict[str, str], object],
    nap: float | None,
    make: Callable[..., Monitor],
    twin: AttributionTwin,
    slurm: ScriptedSlurm,
    naps: list[float],
) -> None:
    slurm.ended = [job(7, log_path="/w/7.out")]
    twin.next_replies.append(reply)
    assert make().look()
    assert naps == [nap] if nap else 0 < naps[0] <= 10
    assert twin.gets == ["/w/7.out"]


@pytest.mark.parametrize(
    "replies",
    [
        [(503, {}, {"message": "starting"})] * 3,
        [(429, {"Retry-After": "86400"}, BUSY)],
        [(500, {}, {"error_code": "internal_error", "message": "unexpected"})],
        [(404, {}, b"Path '/logs' not found.")] * 3,
        [(401, {}, ["odd"])] * 3,
    ],
    ids=["always 503", "429 for a day", "500", "404 of Serve's proxy", "401 of a proxy"],
)
def test_a_service_in_trouble_costs_no_job_a_try(
    replies: list[tuple[int, dict[str, str], object]], make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm
) -> None:
    slurm.ended = [job(7, log_path="/w/7.out")]
    twin.next_replies.extend(replies)
    monitor = make()
    assert not monitor.look()
    assert len(monitor.issues) == 1
    assert monitor.watch.jobs[7].tries == 0
    assert monitor.look()


@pytest.mark.parametrize(
    "reply",
    [
        (403, {}, {"error_code": "outside_root", "message": "outside the allowed root", "details": None}),
        (422, {}, b"not json"),
        (500, {}, {"error_code": "analysis_failed", "message": "ended its reader 2 times", "details": None}),
        (200, {}, b"<html>"),
        (200, {}, [1]),
        (200, {}, {"result": {}}),
    ],
)
def test_a_refusal_or_nonsense_costs_the_job_a_try_and_no_pause(
    reply: tuple[int, dict[str, str], object],
    make: Callable[..., Monitor],
    twin: AttributionTwin,
    slurm: ScriptedSlurm,
    naps: list[float],
) -> None:
    slurm.ended = [job(7, log_path="/w/7.out"), job(8, log_path="/w/8.out")]
    twin.next_replies.append(reply)
    monitor = make()
    assert not monitor.look()
    assert (monitor.issues, naps) == ([], [])
    assert sorted(known.tries for known in monitor.watch.jobs.values()) == [0, 1]
    assert len(twin.gets) == 1


def test_the_predecessors_answer_is_enough(
    make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm, said: list[str]
) -> None:
    slurm.ended = [job(7, log_path="/w/7.out")]
    submitted = {"submitted": True, "normalized_path": "/w/7.out", "mode": "single"}
    text = "RESTART IMMEDIATE\nnode lost\n\nAttribution: Primary issues: [node], Secondary issues: []\n\ntrue"
    result = {"module": "log_analyzer", "state": "complete", "result": [[text, {"auto_resume": "RESTART IMMEDIATE"}]]}
    recommended = {"action": "RESTART", "source": "llm", "reason": "node lost"}
    twin.next_replies.extend([(200, {}, submitted), (200, {}, {"result": result, "status": "completed", "recommendation": recommended})])
    assert make().look()
    assert said[0].startswith("7 train (ada)  FAILED exit -  ->  RESTART  node lost")


def test_accounting_that_was_down_is_asked_from_the_old_instant(make: Callable[..., Monitor], slurm: ScriptedSlurm) -> None:
    monitor = make(lookback=600)
    monitor.watch.cursor = NOW - 9000
    slurm.fail = {"sacct"}
    assert not monitor.look()
    assert monitor.issues == ["'sacct' failed: database down"]
    slurm.fail = set()
    assert monitor.look()
    monitor.look()
    assert slurm.asked_since == [NOW - 9600, NOW - 9600, NOW - 600]


def test_a_controller_that_is_down_makes_no_job_vanish(make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm) -> None:
    monitor = make()
    slurm.known, slurm.outputs = [job(7, Phase.RUNNING)], {"7": "/w/7.out"}
    monitor.look()
    slurm.fail, slurm.known = {"squeue"}, []
    monitor.look()
    assert twin.terminal() == []
    slurm.fail = set()
    monitor.look()
    assert twin.terminal() == ["7"]
    assert monitor.watch.jobs[7].state == "UNKNOWN"


def test_an_output_that_only_accounting_hints_at_is_the_candidate_that_exists(
    make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm, tmp_path: Path
) -> None:
    (tmp_path / "from-script-7.log").touch()
    slurm.ended = [job(7, work_dir=str(tmp_path), submit_line="sbatch t.sh --output ignored")]
    slurm.scripts = {7: "#!/bin/bash\n#SBATCH -o from-script-%j.log\n"}
    make().look()
    assert twin.gets == [f"{tmp_path}/from-script-7.log"]


def test_interactive_jobs_are_left_alone(make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm) -> None:
    monitor = make()
    slurm.known = [job(7, Phase.RUNNING)]
    assert monitor.look()
    slurm.known, slurm.ended = [], [job(7, submit_line="salloc -N1"), job(8, submit_line="/usr/bin/srun a.out")]
    assert monitor.look()
    assert (twin.posts, twin.gets) == ([], [])


def test_a_log_that_the_service_cannot_find_is_given_up_after_a_limit(
    make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm
) -> None:
    slurm.ended, twin.missing = [job(7, log_path="/w/7.out")], {"/w/7.out"}
    monitor = make()
    assert [monitor.look() for _ in range(TRIES_MAX)] == [False] * (TRIES_MAX - 1) + [True]
    assert monitor.watch.jobs[7].problem == "log file not found: '/w/7.out'"
    assert monitor.watch.counts["given_up"] == 1


def test_only_the_wanted_jobs_are_watched(make: Callable[..., Monitor], twin: AttributionTwin, slurm: ScriptedSlurm) -> None:
    slurm.ended = [
        job(1, log_path="/w/1"),
        job(2, log_path="/w/2", partition="cpu"),
        job(3, log_path="/w/3", user="bob"),
        job(4, log_path="/w/4", name="bash"),
    ]
    make(partitions="gpu gpu_long", user="ada", job_pattern="train.*").look()
    assert twin.gets == ["/w/1"]


def test_json_has_one_object_per_line_and_text_has_no_control_characters(
    make: Callable[..., Monitor], slurm: ScriptedSlurm, said: list[str]
) -> None:
    slurm.ended = [job(7, log_path="/w/7.out", name="a\x1b[2J\nb")]
    make(as_json=True).look()
    record = json.loads(said[0])
    assert (record["job_id"], record["name"], record["recommendation"]["action"]) == ("7", "a\x1b[2J\nb", "STOP")
    slurm.ended = [job(8, log_path="/w/8.out", name="a\x1b[2J\nb")]
    make().look()
    assert "\x1b" not in said[1]
    assert said[1].startswith("8 a?[2J?b (ada)")


def test_a_second_monitor_on_the_same_memory_is_refused(tmp_path: Path) -> None:
    with sole_owner(tmp_path / "m.json"), pytest.raises(AttrError, match="another monitor"), sole_owner(tmp_path / "m.json"):
        pass
    with sole_owner(tmp_path / "m.json"):
        pass


def test_a_memory_that_is_not_one_is_refused_and_kept(make: Callable[..., Monitor], tmp_path: Path) -> None:
    (tmp_path / "monitor.json").write_text('{"jobs": 3}')
    with pytest.raises(BadSettings, match="not the memory of a monitor"):
        make()
    assert (tmp_path / "monitor.json").read_text() == '{"jobs": 3}'


def test_the_status_endpoint_tells_health_stats_and_jobs(make: Callable[..., Monitor], slurm: ScriptedSlurm) -> None:
    slurm.ended, slurm.fail = [job(7, log_path="/w/7.out")], {"squeue"}
    monitor = make()
    monitor.look()
    monitor.looked_at = 1e12

    def ask(path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            body: dict[str, object] = json.load(reply)
            return body

    with status_endpoint(monitor, "127.0.0.1", 0, 180) as port:
        assert ask("/healthz") == {"status": "degraded", "issues": ["'squeue' failed: controller down"]}
        assert ask("/stats")["answered"] == 1
        [shown] = ask("/jobs?limit=5")["jobs"]  # type: ignore[misc]
        assert (shown["job_id"], shown["action"]) == ("7", "STOP")
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            ask("/nothing")
        refused.value.close()


def test_a_monitor_whose_looks_stopped_is_failing(make: Callable[..., Monitor]) -> None:
    monitor = make()
    monitor.look()
    assert health(monitor, 10, NOW + 80)["status"] == "ok"
    assert health(monitor, 10, NOW + 100)["status"] == "fail"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"attrsvc_url": "unix:///x"}, "http://"),
        ({"job_pattern": "("}, "regular expression"),
        ({"interval": "-1"}, "INTERVAL"),
        ({"port": "x"}, "PORT"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, str], fault: str) -> None:
    with pytest.raises(BadSettings, match=fault):
        MonitorSettings.load(**given)


def test_the_predecessors_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-1\n")
    monkeypatch.setenv("NVRX_ATTRSVC_URL", "http://attr:8000/")
    monkeypatch.setenv("NVRX_ATTRSVC_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("NVRX_SMONSVC_PORT", "8100")
    monkeypatch.setenv("NVRX_SMONSVC_PARTITIONS", "batch batch_long")
    settings = MonitorSettings.load(interval=5)
    assert (settings.attrsvc_url, settings.port, settings.interval, settings.api_key) == ("http://attr:8000", 8100, 5, "k-1")


@pytest.mark.parametrize(
    ("body", "problem"),
    [("exit 3", "exit code 3"), ("echo denied >&2; exit 1", "denied"), ("exec sleep 5", "did not end within"), (None, "not installed")],
)
def test_a_slurm_command_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str | None, problem: str) -> None:
    if body:
        command = tmp_path / "squeue"
        command.write_text(f"#!/bin/sh\n{body}\n")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH'] if body else ''}")
    with pytest.raises(SlurmError, match=problem):
        SlurmCommands(timeout_s=0.5).known_jobs()
