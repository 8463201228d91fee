"""The MCP server, asked by the SDK's own client over both transports."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters

from attr_actors.errors import Forbidden, OutsideRoot
from attr_actors.models import Action, Attribution, Cascade, Category, Line
from serve_app.mcp_tools import CASCADES_MAX, EVIDENCE_MAX, TEXT_CHARS_MAX, Tools, bounded
from tests.tools.conftest import Running

REPO = Path(__file__).resolve().parent.parent.parent
TOOLS = {"analyze_log", "get_attribution", "list_jobs", "search_log", "read_log_window"}


@asynccontextmanager
async def connected(transport: str, running: Running) -> AsyncIterator[Client]:
    """Connect to the server: as a program of its own, or at /mcp of the running API."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "NVRX_ATTRSVC_ALLOWED_ROOT": str(running.root)}
    program = StdioServerParameters(command=sys.executable, args=["-m", "attr_actors.cli", "mcp"], env=environment)
    async with Client(program if transport == "stdio" else f"{running.url}/mcp") as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return its structured result, which must be its text as well."""
    result: Any = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    assert len(result.content[0].text) < 200_000
    return dict(result.structured_content)


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that must refuse and return what it says."""
    result: Any = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("transport", ["http", "stdio"])
def test_a_real_client_lists_and_calls_every_tool(transport: str, running: Running) -> None:
    path = running.write(f"mcp/{transport}.log")
    httpx.post(f"{running.url}/logs", json={"log_path": path, "user": "ann"})

    async def main() -> None:
        async with connected(transport, running) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
            known = await call(client, "get_attribution", log_path=path)
            assert (known["status"], known["attribution"]) == ("pending", None)
            answer = await call(client, "analyze_log", log_path=path)
            assert (answer["status"], answer["action"]) == ("completed", "STOP")
            assert await call(client, "get_attribution", log_path=path, wl_restart=0) == answer
            cited = answer["attribution"]["root_lines"][0]
            window = await call(client, "read_log_window", log_path=path, first_line=cited["line_number"], count=1)
            assert window["lines"][0]["text"] == cited["text"]
            matches = await call(client, "search_log", log_path=path, pattern="OutOfMemoryError")
            assert [line["line_number"] for line in matches["lines"]] == [cited["line_number"]]
            jobs = await call(client, "list_jobs", mode="single")
            assert [job["path"] for job in jobs["jobs"]] == ([path] if transport == "http" else [])

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_paths_and_parameters_have_the_rules_of_the_http_api(running: Running) -> None:
    path = running.write("mcp/rules.log")
    (running.root / "link.log").symlink_to("/etc/passwd")

    async def main() -> None:
        async with connected("http", running) as client:
            for tool, more in (("analyze_log", {}), ("get_attribution", {}), ("search_log", {"pattern": "x"}), ("read_log_window", {})):
                for outside in ("/etc/passwd", f"{running.root}/../x", f"{running.root}/link.log"):
                    assert "outside_root: " in await refusal(client, tool, log_path=outside, **more)
                assert "invalid_path: " in await refusal(client, tool, log_path="relative", **more)
                assert "not_found:" in await refusal(client, tool, log_path=f"{running.root}/none.log", **more)
            assert "invalid_parameter:" in await refusal(client, "search_log", log_path=path, pattern="(")
            for tool, wrong in (("search_log", {"pattern": "x", "matches_max": 10_000}), ("read_log_window", {"count": 10_000})):
                assert "less than or equal" in await refusal(client, tool, log_path=path, **wrong)

    asyncio.run(main())


def test_a_page_under_another_name_does_not_reach_a_service_on_loopback(running: Running) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"accept": "application/json, text/event-stream"}
    assert httpx.post(f"{running.url}/mcp", json=body, headers={**accept, "host": "evil.example"}).status_code in (403, 421)
    assert httpx.post(f"{running.url}/mcp", json=body, headers={**accept, "origin": "http://evil.example"}).status_code == 403


def test_a_key_with_a_root_of_its_own_is_confined_to_it(running: Running) -> None:
    from attr_actors.settings import Settings

    path = running.write("team-a/a.log")
    tools = Tools(Settings.load(allowed_root=str(running.root)), None)  # type: ignore[arg-type]  # Refused before it is asked.

    async def main() -> None:
        assert (await tools.read_log_window(path, f"{running.root}/team-a", 1, 1)).lines
        with pytest.raises(OutsideRoot):
            await tools.read_log_window(path, f"{running.root}/team-b", 1, 1)
        with pytest.raises(OutsideRoot):
            await tools.analyze_log(path, f"{running.root}/team-b", 1)
        with pytest.raises(Forbidden):
            await tools.list_jobs(f"{running.root}/team-a", None, 1, 0)

    asyncio.run(main())


def test_answers_are_bounded_and_free_of_control_characters() -> None:
    line = Line(line_number=1, byte_offset=0, text="\x1b[31m" + "x" * 4000)
    huge = Attribution(
        action=Action.STOP,
        category=Category.DATA,
        rule="r",
        root_cause="y\n" * 5000,
        root_lines=(line,) * 8,
        evidence=(line,) * 80,
        cascade=(Cascade(signature="s", count=9, ranks=tuple(range(1024)), first=line),) * 40,
    )
    small = bounded(huge)
    assert len(small.model_dump_json()) < 40_000
    assert (len(small.evidence), len(small.cascade)) == (EVIDENCE_MAX, CASCADES_MAX)
    assert all(len(x.text) <= TEXT_CHARS_MAX and x.text.isprintable() for x in (*small.root_lines, *small.evidence))
    assert small.action is huge.action
