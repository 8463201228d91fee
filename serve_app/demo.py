"""``make run``: the service on a local Ray with a temporary ledger, and what it says about the sample logs."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attr_actors
from attr_actors.client import AttributionClient
from attr_actors.core.terminal import render_terminal
from attr_actors.models import Intent
from attr_actors.settings import Settings
from serve_app.launch import serve_until_stopped

SAMPLES = Path(attr_actors.__file__).parent / "samples"


def run_demo(once: bool, say: Callable[[str], None]) -> None:
    """Serve a copy of the samples, submit each, print its attribution, and go on serving unless ``once``."""
    with tempfile.TemporaryDirectory(prefix="attr-actors-demo-") as place:
        logs = Path(place, "logs")
        shutil.copytree(SAMPLES, logs, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.md"))
        port = _first_free_port(8000)
        settings = Settings.load(allowed_root=str(logs), cache_file=str(Path(place, "ledger.db")), port=port, host="127.0.0.1")
        say(f"Starting Ray and the service on port {port} (about 20 s) ...")

        def show(url: str) -> None:
            width = shutil.get_terminal_size((100, 24)).columns
            with AttributionClient(url) as client:
                for log in sorted(logs.iterdir()):
                    say("\n" + _ask(client, log, width, colour=os.isatty(1)))
            example = sorted(logs.iterdir())[0]
            say(
                f"\nGo on with:\n  curl '{url}/logs?log_path={example}'\n"
                f"  curl -H 'Content-Type: application/json' -d '{{\"log_path\":\"{example}\"}}' {url}/logs\n"
                f"  curl '{url}/stats?pretty=true'   # and {url}/docs in a browser"
            )

        serve_until_stopped(settings, say, greet=show, once=once)


def _ask(client: AttributionClient, log: Path, width: int, colour: bool) -> str:
    client.submit(str(log), user="demo", analysis_intent=Intent.TERMINAL)
    started = time.monotonic()
    answer = client.result(str(log)).attribution
    took_ms = (time.monotonic() - started) * 1000
    assert answer is not None  # A completed reply has one, and this one waited for it.
    return f"{render_terminal(log.name, answer, width, colour)}\n  answered in {took_ms:.0f} ms"


def _first_free_port(port: int) -> int:
    for candidate in range(port, port + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", candidate)):
                return candidate
    return port
