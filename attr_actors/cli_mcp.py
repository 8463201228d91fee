"""``nvrx-attrsvc mcp``: the tools for an AI assistant, over standard input and output."""

from __future__ import annotations

import argparse

from attr_actors.cli_output import EXIT_OK, add_command


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    told = "serve an AI assistant over standard input and output (Model Context Protocol)"
    mcp = add_command(commands, "mcp", _mcp, told, "claude mcp add attr -- nvrx-attrsvc mcp --root /logs")
    mcp.add_argument("--root", help="directory that the assistant may read; default: NVRX_ATTRSVC_ALLOWED_ROOT")
    mcp.add_argument("--address", metavar="ADDRESS", help="ask the service on this Ray cluster; without it everything runs here")


def _mcp(args: argparse.Namespace) -> int:
    import asyncio

    from attr_actors.library import find_or_open_actors
    from attr_actors.settings import Settings
    from serve_app.mcp_server import build_mcp
    from serve_app.service import AttributionService

    settings = Settings.load(**({"allowed_root": args.root} if args.root else {}))

    async def serve() -> None:
        async with find_or_open_actors(settings, args.address) as actors:
            await build_mcp(AttributionService(settings, actors)).run_stdio_async()

    asyncio.run(serve())
    return EXIT_OK
