"""Reads a log in a child process: what the log does to its reader happens there."""

from __future__ import annotations

import asyncio
import os
import sys

from attr_actors.core.engine import Engine
from attr_actors.core.paths import LogPath
from attr_actors.errors import AnalysisFailed, Unavailable
from attr_actors.models import Analysis
from attr_actors.settings import Settings

REPLY_BYTES_MAX = 64 * 1024 * 1024
"""An answer is bounded by the evidence limit per cycle; this only guards against a child gone wild."""


async def analyze_isolated(log: LogPath, settings: Settings) -> Analysis:
    """Analyse a log in a child process and return its answer.

    Raises AnalysisFailed when the child dies or reports a fault, Unavailable after ``compute_timeout``.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "attr_actors.actors.isolation", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    request = "\0".join((*log, settings.model_dump_json(include=ENGINE_FIELDS))).encode()
    try:
        async with asyncio.timeout(settings.compute_timeout):
            reply, _ = await child.communicate(request)
    except TimeoutError:
        child.kill()
        raise Unavailable(f"reading '{log.path}' took longer than {settings.compute_timeout:g} s", 30.0) from None
    if child.returncode or len(reply) > REPLY_BYTES_MAX:
        raise AnalysisFailed(f"'{log.path}' ended its reader (exit code {child.returncode})")
    return Analysis.model_validate_json(reply)


ENGINE_FIELDS = frozenset(name for name in Settings.model_fields if name.startswith(("allowed_root", "evidence_", "scan_", "signatures_")))
"""What the child needs to know; secrets stay here."""


def _main() -> None:
    path, root, fields = sys.stdin.read().split("\0")
    settings = Settings.model_validate_json(fields)
    os.nice(5)
    sys.stdout.write(Engine(settings).analyze(LogPath(path, root)).model_dump_json())


if __name__ == "__main__":
    _main()
