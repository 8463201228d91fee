"""``nvrx-attrsvc signatures``: the failure signatures that are in use, and a test for an operator's own rows."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from attr_actors.cli_output import EXIT_OK, add_command, terminal_width

if TYPE_CHECKING:
    from attr_actors.core.signatures.library import Signature

SHOWN = ("id", "family", "role", "category", "owner", "action", "tier", "regex", "unless", "example", "why", "source", "file")


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    signatures = commands.add_parser("signatures", help="list the failure signatures, or test an operator's own").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    listing = add_command(signatures, "list", _list, "list the signatures in use", "nvrx-attrsvc signatures list --category storage")
    listing.add_argument("--category", help="only rows of this category")
    listing.add_argument("--json", action="store_true", help="one JSON object per row and line")
    test = add_command(
        signatures,
        "test",
        _test,
        "check every row against its examples; exit code 1 names the first bad row",
        "nvrx-attrsvc signatures test --dir /etc/attr-actors/signatures --line 'my error'",
    )
    test.add_argument("--line", action="append", default=[], metavar="TEXT", help="also show which rows match this log line; repeatable")
    test.add_argument("--json", action="store_true", help="one JSON object")
    for command in (listing, test):
        command.add_argument("--dir", default=os.environ.get("NVRX_ATTRSVC_SIGNATURES_DIR", ""), help="directory of own rows (*.toml)")


def _list(args: argparse.Namespace) -> int:
    from attr_actors.core.signatures.library import load_signatures

    rows = [row for row in load_signatures(args.dir) if args.category in (None, row.category.value)]
    if args.json:
        for row in rows:
            print(json.dumps({name: getattr(row, name) for name in SHOWN}))
    else:
        print(render_table(rows, terminal_width()))
    return EXIT_OK


def render_table(rows: list[Signature], width: int) -> str:
    """Return a table of rows and their number."""
    cells = [("ID", "CATEGORY", "ACTION", "WHY"), *((r.id, "-" if r.is_structural else r.category, r.action, r.why) for r in rows)]
    cells = [(a, b, "-" if b == "-" else c, d) for a, b, c, d in cells]
    first, second, third = (max(len(row[i]) for row in cells) for i in range(3))
    lines = (f"{a:{first}}  {b:{second}}  {c:{third}}  {d}" for a, b, c, d in cells)
    return "\n".join([*(line if len(line) <= width else line[: width - 1] + "…" for line in lines), f"{len(rows)} signatures"])


def _test(args: argparse.Namespace) -> int:
    from attr_actors.core.signatures.library import BUILT_IN, load_signatures

    rows = load_signatures(args.dir)  # Raises BadSignature: each row is tried on its examples and counter-examples.
    own = sum(not row.file.startswith(str(BUILT_IN)) and os.path.isabs(row.file) for row in rows)
    found: dict[str, Any] = {line: [row.id for row in rows if row.matches(line)] for line in args.line}
    if args.json:
        print(json.dumps({"signatures": len(rows), "own": own, "matches": found}))
        return EXIT_OK
    print(f"{len(rows)} signatures, {own} of them own: each matches its example and none of its counter-examples")
    for line, names in found.items():
        print(f"{line!r} matches {', '.join(names) or 'nothing'}")
    return EXIT_OK
