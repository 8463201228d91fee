"""The ``jobs`` command: its table, and what it says when the service does not answer as expected."""

from __future__ import annotations

import argparse
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from attr_actors.cli_jobs import add_parsers, render_age, render_page
from attr_actors.errors import InvalidParameter, RequestError, Unavailable

JOB = {
    "job_id": "7",
    "log_path": "/l/slurm-7.out",
    "path": "/l/slurm-7.out",
    "user": "ann",
    "mode": "splitlog",
    "created_at": 1000.0,
    "terminated": True,
    "sched_restarts": 0,
    "logs_dir": "/l",
    "log_files": ["/l/a", "/l/b", "/l/c"],
    "files_count": 3,
    "files_analyzed": 2,
}
PAGE = {
    "total_counts": {"pending": 1, "single": 2, "splitlog": 3},
    "jobs": [JOB, {**JOB, "job_id": None, "mode": "single", "user": "b\x1b[31mob"}],
    "filter": {},
    "returned": 2,
    **{mode: {"count": 0, "jobs": []} for mode in ("pending", "single", "splitlog")},
}


class Canned(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, bytes]]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Canned.answers, Canned.asked = [], []
    server = http.server.HTTPServer(("127.0.0.1", 0), Canned)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attr_actors.client_wire.delay_s", lambda *_: 0.0)


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    args = parser.parse_args(["jobs", *argv])
    return int(args.run(args))


def test_a_page_fits_a_terminal_and_hides_control_characters() -> None:
    assert render_page(PAGE, 0, now=1000.0 + 7200).splitlines() == [
        "1 pending, 2 single, 3 splitlog; shown: 1-2",
        "JOB  USER      MODE              AGE  FILES  LOG",
        "7    ann       splitlog (ended)  2h   2/3    /l/slurm-7.out",
        "-    b?[31mob  single (ended)    2h   -      /l/slurm-7.out",
    ]


@pytest.mark.parametrize(("seconds", "age"), [(-5, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (86399, "23h"), (200_000, "2d")])
def test_ages_have_one_unit(seconds: float, age: str) -> None:
    assert render_age(seconds) == age


def test_the_command_asks_for_the_page_and_prints_json_lines(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Canned.answers = [(200, json.dumps(PAGE).encode())]
    assert run("--url", url, "--mode", "splitlog", "--limit", "5", "--offset", "10", "--json") == 0
    assert Canned.asked == ["/jobs?mode=splitlog&limit=5&offset=10"]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == PAGE["jobs"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((503, b'{"error_code": "unavailable", "message": "the tracker is restarting"}'), Unavailable, "the tracker is restarting"),
        ((422, b'{"error_code": "validation_error", "message": "limit is too large"}'), InvalidParameter, "limit is too large"),
        ((200, b"<html>"), RequestError, "does not answer like this service"),
    ],
)
def test_what_the_service_says_is_passed_on(url: str, answer: Any, error: type[Exception], words: str) -> None:
    Canned.answers = [answer] * 4  # It is asked again where that may help.
    with pytest.raises(error, match=words):
        run("--url", url)


def test_nobody_there_is_said_in_words(url: str) -> None:
    with pytest.raises(Unavailable, match="did not answer"):
        run("--url", "http://127.0.0.1:9")
