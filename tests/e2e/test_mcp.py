"""``/mcp`` of the real service on Ray Serve, asked by the SDK's own client over streamable HTTP."""

from __future__ import annotations

import asyncio

import pytest
from mcp import Client

from tests.api.conftest import OOM_LOG
from tests.e2e.conftest import Service
from tests.tools.test_mcp import TOOLS, call, refusal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_every_tool_answers_as_the_http_routes_do(service: Service) -> None:
    path = service.write("mcp/slurm-77.out", OOM_LOG)
    service.post(path, user="ann")

    async def main() -> None:
        async with Client(f"{service.url}/mcp") as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
            answer = await call(client, "analyze_log", log_path=path)
            assert (answer["status"], answer["action"]) == ("completed", "STOP")
            assert await call(client, "get_attribution", log_path=path) == answer
            cited = answer["attribution"]["root_lines"][0]
            assert cited == service.get(path).json()["attribution"]["root_lines"][0]
            window = await call(client, "read_log_window", log_path=path, first_line=cited["line_number"], count=1)
            matches = await call(client, "search_log", log_path=path, pattern="OutOfMemoryError")
            assert [window["lines"][0]["text"], matches["lines"][0]["line_number"]] == [cited["text"], cited["line_number"]]
            assert path in {job["path"] for job in (await call(client, "list_jobs", limit=100))["jobs"]}

    asyncio.run(main())


def test_a_path_outside_the_root_is_refused_by_every_tool_that_takes_one(service: Service) -> None:
    async def main() -> None:
        async with Client(f"{service.url}/mcp") as client:
            for tool, more in (("analyze_log", {}), ("get_attribution", {}), ("search_log", {"pattern": "x"}), ("read_log_window", {})):
                for outside in ("/etc/passwd", f"{service.root}/../ledger.db"):
                    assert "outside_root: " in await refusal(client, tool, log_path=outside, **more)

    asyncio.run(main())
