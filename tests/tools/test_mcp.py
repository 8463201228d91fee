"""The MCP server, asked by the SDK's own client over both transports."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from mcp import Client, StdioServerParameters

from attr_actors.core.access import KeyRow, hash_token, render_keys
from attr_actors.core.reading import Excerpt, search_log
from attr_actors.errors import Forbidden, OutsideRoot, Overloaded, Unauthorized, Unavailable
from attr_actors.handles import Actors
from attr_actors.models import Action, Attribution, Cascade, Category, Line
from attr_actors.settings import Settings
from serve_app.keys import Keys
from serve_app.mcp_tools import CASCADES_MAX, EVIDENCE_MAX, TEXT_CHARS_MAX, Tools, bounded
from serve_app.service import READ_THREADS, READS_WAITING_MAX, AttributionService
from tests.tools.conftest import Running

REPO = Path(__file__).resolve().parent.parent.parent
TOOLS = {"analyze_log", "get_attribution", "list_jobs", "search_log", "read_log_window"}


def lone_service(root: Path, **settings: Any) -> AttributionService:
    """Return a service that can read files and knows nobody to ask for an analysis."""
    return AttributionService(Settings.load(allowed_root=str(root), **settings), cast(Actors, SimpleNamespace(tracker=None, analyzers=())))


def health_check(settings: Settings) -> Callable[[], Awaitable[None]]:
    """Return what Serve asks a replica for its health, without a replica around it."""
    from serve_app.app import Ingress  # It imports Ray, which warns of itself.

    replica = SimpleNamespace(_settings=settings, _health_threads=ThreadPoolExecutor(1))
    check: Callable[[], Awaitable[None]] = functools.partial(cast(Any, Ingress).func_or_class.check_health, replica)
    return check


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


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_there_are_no_streams_and_no_sessions(method: str, running: Running) -> None:
    reply = httpx.request(method, f"{running.url}/mcp", headers={"accept": "text/event-stream"}, timeout=5)
    assert (reply.status_code, reply.headers["allow"], reply.json()["error_code"]) == (405, "POST", "method_not_allowed")
    assert list(reply.json()) == ["error_code", "message", "details"]


def test_nobody_can_listen_for_ever(running: Running) -> None:
    version = "2026-07-28"
    told = {f"io.modelcontextprotocol/{name}": {} for name in ("clientInfo", "clientCapabilities")}
    told["io.modelcontextprotocol/clientInfo"] = {"name": "test", "version": "1"}
    params = {"notifications": {"toolsListChanged": True}, "_meta": {**told, "io.modelcontextprotocol/protocolVersion": version}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": version, "mcp-method": body["method"]}
    reply = httpx.post(f"{running.url}/mcp", json=body, headers=headers, timeout=5)  # type: ignore[arg-type]
    assert reply.json()["error"]["code"] == -32601, reply.text  # The method is not found.


def test_a_key_with_a_root_of_its_own_is_confined_to_it(running: Running) -> None:
    path = running.write("team-a/a.log")
    tools = Tools(lone_service(running.root))

    async def main() -> None:
        assert (await tools.read_log_window(path, f"{running.root}/team-a", 1, 1)).lines
        with pytest.raises(OutsideRoot):
            await tools.read_log_window(path, f"{running.root}/team-b", 1, 1)
        with pytest.raises(OutsideRoot):
            await tools.analyze_log(path, f"{running.root}/team-b", 1)
        with pytest.raises(Forbidden):
            await tools.list_jobs(f"{running.root}/team-a", None, 1, 0)

    asyncio.run(main())


def test_a_search_that_takes_too_long_ends_with_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_bytes(gzip.compress(bytes(16 << 20), 1) * 200)
    service, ended = lone_service(tmp_path, file_timeout_s=0.3), threading.Event()

    def search(*args: Any) -> Excerpt:
        try:
            return search_log(*args)
        finally:
            ended.set()

    monkeypatch.setattr("serve_app.mcp_tools.search_log", search)

    async def main() -> None:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"longer than 0\.3 s"):
            await Tools(service).search_log(str(tmp_path / "a.log"), None, "y", 1, 1, False)
        assert ended.is_set()
        assert time.monotonic() - started < 2
        assert service.gauges()["files.threads_stuck"] == 0  # The file system is not to blame.
        ended.clear()
        gone = asyncio.create_task(Tools(service).search_log(str(tmp_path / "a.log"), None, "y", 1, 1, False))
        await asyncio.sleep(0.1)
        gone.cancel()  # The client went away.
        assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, 0.15)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_searches_that_hang_hold_up_searches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, keys_file, mended = tmp_path / "a.log", tmp_path / "keys.json", threading.Event()
    log.write_text("x\n")
    keys_file.write_text(render_keys([KeyRow(name="ann", scopes=("read",), sha256=hash_token("ann"))]))
    keys, service, mends = Keys(str(keys_file)), lone_service(tmp_path, file_timeout_s=0.2), []
    monkeypatch.setattr("serve_app.mcp_tools.search_log", lambda *_: mended.wait(60))
    monkeypatch.setattr("serve_app.app.mend_actors", mends.append)
    check_health = health_check(Settings.load(allowed_root=str(tmp_path)))

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
        asked = (Tools(service).search_log(str(log), None, "y", 1, 1, False) for _ in range(READ_THREADS + READS_WAITING_MAX + 10))
        searches = [asyncio.create_task(search) for search in asked]
        await asyncio.sleep(0.1)
        keys_file.write_text(render_keys([]))
        async with asyncio.timeout(5):
            await keys.reload()
            await check_health()
            assert await service.preview(str(log)) == b"x\n"
            answers = Counter(type(answer) for answer in await asyncio.gather(*searches, return_exceptions=True))
        assert answers == {Unavailable: READ_THREADS + READS_WAITING_MAX, Overloaded: 10}
        with pytest.raises(Unauthorized):
            keys.identify("ann")
        assert len(mends) == 1
        mended.set()

    try:
        asyncio.run(main())
    finally:
        mended.set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_health_and_keys_need_no_thread_that_others_can_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys_file, mended = tmp_path / "keys.json", threading.Event()
    keys_file.write_text(render_keys([KeyRow(name="ann", scopes=("read",), sha256=hash_token("ann"))]))
    keys, check_health = Keys(str(keys_file)), health_check(Settings.load(allowed_root=str(tmp_path)))
    monkeypatch.setattr("serve_app.app.mend_actors", lambda _: None)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        hung = asyncio.get_running_loop().run_in_executor(None, mended.wait, 60)
        try:
            async with asyncio.timeout(5):
                await keys.reload()
                await check_health()
        finally:
            mended.set()
            await hung

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
