"""``nvrx-attrsvc completion``: the shell's completion script."""

from __future__ import annotations

import argparse

from attr_actors.cli_output import EXIT_OK, add_command

FILES = frozenset({"FILE", "LOG", "TARGET"})
"""Arguments that name files, by what the help calls them."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    example = "nvrx-attrsvc completion bash > ~/.local/share/bash-completion/completions/nvrx-attrsvc"
    completion = add_command(commands, "completion", _completion, "print a completion script for your shell", example)
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh", "fish"))


def _completion(args: argparse.Namespace) -> int:
    import shtab

    from attr_actors.cli import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in FILES or action.dest in ("file", "dir"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to say it.
    print(shtab.complete(parser, args.shell))
    return EXIT_OK


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return all arguments of a parser and its commands."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [inner for command in action.choices.values() for inner in _actions(command)]
    return found
