"""``nvrx-attrsvc snapshot``: what a running service says about itself, in one archive for a bug report or a post-mortem."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tarfile
import time
from typing import Any

import attr_actors
from attr_actors.cli_output import EXIT_FAULTS, EXIT_OK, add_command
from attr_actors.cli_remote import default_url

QUESTIONS = {
    "health.json": "/healthz?pretty=true",
    "stats.json": "/stats?pretty=true",
    "jobs.json": "/jobs?limit=1000&pretty=true",
    "inflight.json": "/inflight?pretty=true",
    "metrics.txt": "/metrics",
    "openapi.json": "/openapi.json",
}
TIMEOUT_S = 30
"""A service that hangs is when a snapshot is wanted: each question gets this long, and a late answer is written down as such."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    snapshot = add_command(commands, "snapshot", _snapshot, "save the state of a running service and the settings, secrets masked")
    snapshot.add_argument("--url", default=default_url(), help="where the service listens; default: %(default)s")
    snapshot.add_argument("--output", metavar="FILE", help="default: attr-actors-<time>.tar.gz here")


def _snapshot(args: argparse.Namespace) -> int:
    files, faults = _answers(args.url)
    files |= {"settings.json": _settings(), "about.json": _about(args.url, faults)}
    output = args.output or time.strftime("attr-actors-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    with (
        open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
        tarfile.open(fileobj=file, mode="w:gz") as archive,
    ):
        for name, text in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text), int(time.time())
            archive.addfile(entry, io.BytesIO(text))
    print(output)
    for fault in faults:
        print(fault, file=sys.stderr)
    return EXIT_FAULTS if faults else EXIT_OK


def _answers(url: str) -> tuple[dict[str, bytes], list[str]]:
    import httpx

    key = os.environ.get("NVRX_ATTRSVC_API_KEY")
    files: dict[str, bytes] = {}
    faults: list[str] = []
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, headers={"Authorization": f"Bearer {key}"} if key else {}) as client:
        for name, question in QUESTIONS.items():
            try:
                reply = client.get(question)
            except httpx.HTTPError as exc:
                faults.append(f"{question}: {type(exc).__name__}: {exc}")
                continue
            files[name] = reply.content
            if reply.status_code != 200:
                faults.append(f"{question}: status {reply.status_code}")
    return files, faults


def _settings() -> bytes:
    """Return this environment's settings: those of the service where it runs with the same environment."""
    from attr_actors.errors import BadSettings
    from attr_actors.settings import Settings, masked

    try:
        shown: dict[str, Any] = masked(Settings.load())
    except BadSettings as exc:
        shown = {"fault": exc.message}
    return json.dumps(shown, indent=2, default=str).encode()


def _about(url: str, faults: list[str]) -> bytes:
    about = {
        "version": attr_actors.__version__,
        "url": url,
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "faults": faults,
    }
    return json.dumps(about, indent=2).encode()
