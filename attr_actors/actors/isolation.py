"""Reads a log in a child process: what the log does to its reader happens there."""

from __future__ import annotations

import asyncio
import os
import sys

from attr_actors.core.engine import Engine
from attr_actors.core.paths import LogPath
from attr_actors.errors import AnalysisFailed, RequestError, Unavailable
from attr_actors.models import Analysis, EngineConfig

REPLY_BYTES_MAX = 64 * 1024 * 1024
"""An answer is bounded by the evidence limit per cycle; this only guards against a child gone wild."""

REFUSED = b"refused "
REFUSALS: dict[str, type[RequestError]] = {cls.__name__: cls for cls in RequestError.__subclasses__()}
"""How a child says that the log cannot be read, which is another thing than to die of it."""


async def analyze_isolated(log: LogPath, config: EngineConfig, timeout_s: float) -> Analysis:
    """Analyse a log in a child process and return its answer.

    Raises AnalysisFailed when the child dies, Unavailable after ``timeout_s``, and what reading the log raises.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "attr_actors.actors.isolation",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # Ray may have brought our code along.
    )
    try:
        async with asyncio.timeout(timeout_s):
            reply, _ = await child.communicate("\0".join((*log, config.model_dump_json())).encode())
    except TimeoutError:
        child.kill()
        await child.wait()
        raise Unavailable(f"reading '{log.path}' took longer than {timeout_s:g} s", 30.0) from None
    if child.returncode or len(reply) > REPLY_BYTES_MAX:
        raise AnalysisFailed(f"'{log.path}' ended its reader (exit code {child.returncode})")
    if reply.startswith(REFUSED):
        name, _, message = reply[len(REFUSED) :].decode().partition("\0")
        raise REFUSALS.get(name, RequestError)(message)
    return Analysis.model_validate_json(reply)


def _main() -> None:
    path, root, config = sys.stdin.read().split("\0")
    os.nice(5)  # It may be greedy; the healthy logs go first.
    try:
        sys.stdout.write(Engine(EngineConfig.model_validate_json(config)).analyze(LogPath(path, root)).model_dump_json())
    except RequestError as exc:  # The file went away or changed into something else: no fault of its reader.
        sys.stdout.write(f"{REFUSED.decode()}{type(exc).__name__}\0{exc.message}")


if __name__ == "__main__":
    _main()
