"""The running service with every sink on: nothing is lost by kills, every sink gets each answer, and no secret shows."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.conftest import Service, start_service, stop_service
from tests.elasticsearch_twin import ElasticsearchTwin
from tests.loopback import Loopback, Reply, Request, status
from tests.slack_twin import CHANNEL, TOKEN, SlackTwin

KILLS = int(os.environ.get("ATTR_ACTORS_KILLS", "6"))
"""kill -9 of a random process this many times; fifty for the record."""

SECRETS = {
    "slack token": TOKEN,
    "elasticsearch password": "el4stic-passw0rd",
    "webhook key": "webh00k-signing-key",
    "webhook password": "webh00k-passw0rd",
    "model key": "nvapi-m0del-key",
}
STOP_LOG = "Traceback (most recent call last):\n  File \"train.py\", line 3, in <module>\nModuleNotFoundError: No module named 'apex_{n}'\n"


class Receiver(Loopback):
    def answer(self, request: Request) -> Reply:
        return Reply(204, b"")


class Outside(NamedTuple):
    elastic: ElasticsearchTwin
    slack: SlackTwin
    receiver: Receiver
    service: Service
    place: Path


@contextlib.contextmanager
def running(**more: str) -> Iterator[Outside]:
    """Run the service with every sink on."""
    # Ray's sockets lie below it, and their names may not be long.
    place = Path(tempfile.mkdtemp(prefix="sinks-"))
    elastic, slack, receiver = ElasticsearchTwin(), SlackTwin(), Receiver()
    with elastic.serving(), slack.serving(), receiver.serving():
        settings = {
            "DATAFLOW_INDEX": "attribution",
            "ELASTICSEARCH_URL": elastic.url.replace("://", f"://writer:{SECRETS['elasticsearch password']}@"),
            "SLACK_BASE_URL": slack.base_url,
            "EXPORT_URL": receiver.url.replace("://", f"://hook:{SECRETS['webhook password']}@"),
            "EXPORT_SECRET": SECRETS["webhook key"],
            "SINK_TIMEOUT_S": "2",
            "OUTBOX_LEASE_S": "8",
            "OUTBOX_POLL_INTERVAL_S": "0.2",
            "OUTBOX_BACKOFF_MAX_S": "2",
            "LOG_LEVEL": "DEBUG",
            "RATE_LIMIT_ANALYZE": "1000000/minute",
            "RATE_LIMIT_SUBMIT": "1000000/minute",
        }
        environment = {f"NVRX_ATTRSVC_{name}": value for name, value in settings.items()}
        bare = {"SLACK_BOT_TOKEN": TOKEN, "SLACK_CHANNEL": CHANNEL, "RAY_TMPDIR": str(place)}
        service = start_service(place, **environment, **bare, **more)
        try:
            yield Outside(elastic, slack, receiver, service, place)
        finally:
            if service.process.poll() is None:
                stop_service(service)
    shutil.rmtree(place, ignore_errors=True)


class Load(threading.Thread):
    """Asks for fresh logs without pause and remembers what was acknowledged."""

    def __init__(self, service: Service, name: str) -> None:
        super().__init__()
        self._service, self._name = service, name
        self.told: dict[str, str] = {}
        self.refused = 0
        self.ending = threading.Event()

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self._service.url, timeout=60) as client:
            while not self.ending.is_set():
                path = self._service.write(f"{self._name}-{number}.log", STOP_LOG.replace("{n}", f"{self._name}_{number}"))
                number += 1
                try:
                    client.post("/logs", json={"log_path": path, "user": "ada", "job_id": f"{self._name}{number}"})
                    reply = client.get("/logs", params={"log_path": path})
                except httpx.HTTPError:
                    self.refused += 1
                    continue
                if reply.status_code == 200 and reply.json()["status"] == "completed":
                    self.told[path] = reply.json()["result"]["result_id"]
                else:
                    self.refused += 1


def owed(service: Service) -> float:
    with contextlib.suppress(httpx.HTTPError):
        reply = service.client.get("/stats")
        if reply.status_code == 200:
            counts = reply.json()["outbox"]
            return float(sum(v for name, v in counts.items() if name.endswith((".waiting", ".leased", ".parked"))))
    return -1.0


def wait_until_settled(service: Service, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while owed(service) != 0:
        assert time.monotonic() < deadline, service.client.get("/stats").json()["outbox"]
        time.sleep(0.2)


@pytest.mark.long
@pytest.mark.timeout(590)
def test_kills_under_load_lose_no_answer_and_double_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    # Without a model: its outages would change answers, by design, and here each must stay as it was.
    with running() as outside:
        trial(outside, capsys)


def trial(outside: Outside, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill random processes under load, and compare what clients were told with what is served and delivered afterwards."""
    service = outside.service
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    loads = [Load(service, name) for name in ("a", "b")]
    for load in loads:
        load.start()
    killed: dict[str, int] = {}
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.5, 2.5))  # The moment of the kill is what is random here.
            with contextlib.suppress(httpx.HTTPError, ProcessLookupError, KeyError):
                victim, pid = chance.choice([(n, p) for n, p in service.pids().items() if p])
                os.kill(pid, signal.SIGKILL)
                killed[victim] = killed.get(victim, 0) + 1
    finally:
        for load in loads:
            load.ending.set()
        for load in loads:
            load.join()
    told = {path: result for load in loads for path, result in load.told.items()}
    assert len(told) > KILLS
    for path, result_id in told.items():
        reply = service.get(path)
        assert (reply.status_code, reply.json()["result"]["result_id"]) == (200, result_id), f"seed {seed}: {path}"
    wait_until_settled(service)
    paths = [document["s_log_path"] for document in outside.elastic.documents.values()]
    assert len(paths) == len(set(paths)), "one document per log of one cycle"
    assert set(told) <= set(paths)
    posted = [m["text"].split("`")[1] for m in outside.slack.messages]
    stops = {d["s_job_id"] for d in outside.elastic.documents.values() if d["s_recommendation_action"] == "STOP"}
    assert stops <= set(posted)
    with capsys.disabled():
        print(
            f"\nseed {seed}: kills {killed}; {len(told)} answers acknowledged, 0 lost, {sum(load.refused for load in loads)} refused;"
            f" {len(paths)} documents, {len(posted)} Slack messages for {len(set(posted))} jobs"
        )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_secrets_show_nowhere() -> None:
    """After a run with every feature and every kind of failure, look into all that the service said or wrote."""
    model = {"NVIDIA_API_KEY": SECRETS["model key"], "NVRX_ATTRSVC_LLM_BASE_URL": "http://127.0.0.1:9/v1"}
    with running(**model) as outside:
        look_for_secrets(outside)


def look_for_secrets(outside: Outside) -> None:
    """Let everything fail once, and read all that is served and written."""
    service = outside.service
    outside.elastic.faults.extend([status(401), status(500), status(503)])
    outside.slack.faults.extend([status(500), status(429)])
    outside.slack.errors = ["invalid_auth"]
    outside.receiver.faults.extend([status(400), status(500)])
    for number in range(5):
        service.get(service.write(f"secret-{number}.log", STOP_LOG.replace("{n}", f"secret_{number}")))
    deadline = time.monotonic() + 60
    while outside.elastic.faults or outside.slack.faults or outside.receiver.faults:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    said = {
        path: service.client.get(path).text
        for path in ("/stats", "/healthz", "/jobs", "/inflight", "/metrics", "/openapi.json", "/logs?log_path=x")
    }
    assert stop_service(service) == 0
    written = {str(path): path.read_bytes() for path in outside.place.rglob("*") if path.is_file() and not path.is_symlink()}
    logs = [name for name in written if name.endswith((".log", ".out", ".err"))]
    assert any("worker" in name for name in logs), "Ray's logs of the actors are among what is looked into"
    found = [f"{kind} in {name}" for name, text in said.items() for kind, secret in SECRETS.items() if secret in text]
    found += [f"{kind} in {name}" for name, text in written.items() for kind, secret in SECRETS.items() if secret.encode() in text]
    assert not found
