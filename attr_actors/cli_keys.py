"""``nvrx-attrsvc keys``: make API keys. The service sees a changed file within seconds."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

from attr_actors.cli_output import EXIT_OK


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``keys``; each action sets ``run(args) -> exit code``."""
    keys = commands.add_parser("keys", help="make and list API keys")
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key; the token is shown once, the file keeps its hash")
    new.add_argument("name", metavar="NAME", help="who it is for; stands in logs and figures")
    new.add_argument("--scope", action="append", choices=("read", "submit", "admin"), help="repeatable; default: read and submit")
    new.add_argument("--root", metavar="DIR", help="directory that the key is confined to")
    new.set_defaults(run=_new)
    show = actions.add_parser("list", help="show names, scopes and roots")
    show.set_defaults(run=_list)
    for action in (new, show):
        action.add_argument("--file", metavar="FILE", help="default: NVRX_ATTRSVC_API_KEYS_FILE")


def _new(args: argparse.Namespace) -> int:
    from attr_actors.core.access import KeyRow, Scope, hash_token, new_token, parse_keys, render_keys
    from attr_actors.errors import BadSettings

    path = _path(args)
    rows = parse_keys(path.read_text()) if path.exists() else ()
    if any(row.name == args.name for row in rows):
        raise BadSettings(f"'{path}' has a key '{args.name}' already; take another name, or remove that key from the file")
    if args.root and not args.root.startswith("/"):
        raise BadSettings(f"--root must be an absolute path, got '{args.root}'")
    token = new_token()
    scopes = frozenset(Scope(scope) for scope in args.scope or ("read", "submit"))
    root = os.path.realpath(args.root) if args.root else None
    _write(path, render_keys((*rows, KeyRow(name=args.name, sha256=hash_token(token), scopes=scopes, root=root))))
    print(token)
    return EXIT_OK


def _list(args: argparse.Namespace) -> int:
    from attr_actors.core.access import parse_keys

    for row in parse_keys(_path(args).read_text()):
        print(f"{row.name}  {','.join(sorted(row.scopes))}  {row.root or '-'}")
    return EXIT_OK


def _path(args: argparse.Namespace) -> Path:
    from attr_actors.errors import BadSettings

    name = args.file or os.environ.get("NVRX_ATTRSVC_API_KEYS_FILE", "")
    if not name:
        raise BadSettings("NVRX_ATTRSVC_API_KEYS_FILE: is not set; set it, or name the file with --file")
    return Path(name)


def _write(path: Path, text: str) -> None:
    """Replace the file at once: the service never reads a half of it. Only its owner may read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # A file that another user's service reads stays readable for it.
            found = path.stat()
            os.chmod(temporary, found.st_mode & 0o777)
            os.chown(temporary, found.st_uid, found.st_gid)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
