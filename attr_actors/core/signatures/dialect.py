r"""The regex dialect of signature rows, and its form for scanners that see many lines at once.

Hold in mind: a row is matched on one line at a time, but a scanner reads a whole block. ``confine()`` rewrites the few constructs
that could cross a line end (``\s``, ``\W``, ``\D``, negated sets), so that both find exactly the same lines.
"""

from __future__ import annotations

import re

_SPACE = r" \t\r\f\x0b"
_TOKEN = re.compile(r"\\x[0-9a-fA-F]{2}|\\.|\[\^?\]?|\(\?[P<=!#:a-zA-Z-]*|.", re.DOTALL)
_REFUSED_ESCAPES = {
    "A": r"use ^ for the start of the line",
    "Z": r"use $ for the end of the line",
    "v": r"write \x0b",
    "n": r"a row sees one line, it cannot match a line end",
}
_GROUPS = re.compile(r"\(\?(?:[aimsxLu-]*\)|P<\w+>|:|i:)")
"""Groups that all three engines (re, hyperscan, re2) read alike: named, plain, and case-insensitive ones."""


def confine(regex: str) -> str:
    """Return the regex in a form that never matches across a line end. Raises ValueError for what not all engines read."""
    out: list[str] = []
    negated: bool | None = None  # None outside a set.
    position = 0
    while position < len(regex):
        found = _TOKEN.match(regex, position)
        assert found is not None
        token, position = found.group(), found.end()
        if token.startswith("\\"):
            out.append(_confine_escape(token, negated))
        elif negated is not None:
            out.append(token)
            if token == "]":
                negated = None
        elif token.startswith("["):
            negated = token.startswith("[^")
            out.append("[^\\n" if negated else "[")
            out.append("\\]" if token.endswith("]") else "")
        else:
            if token.startswith("(?"):
                _check_group(regex, found.start())
            out.append(token)
    return "".join(out)


def _confine_escape(token: str, negated: bool | None) -> str:
    letter = token[1]
    if letter in _REFUSED_ESCAPES:
        raise ValueError(f"{token} is not allowed: {_REFUSED_ESCAPES[letter]}")
    if letter.isdigit():
        raise ValueError(f"{token} is not allowed: back-references and octal escapes are not read by every engine")
    if letter == "s":
        return _SPACE if negated is not None else f"[{_SPACE}]"
    if letter in "WDS" and negated is not None:
        if letter == "S" and negated is False:
            return token
        raise ValueError(f"{token} inside a set is not allowed: write the characters out")
    if letter in "WD":
        return f"[^\\n\\{letter.lower()}]"
    return token


def _check_group(regex: str, position: int) -> None:
    if not _GROUPS.match(regex, position):
        construct = regex[position : position + 4]
        raise ValueError(f"'{construct}' is not allowed: no lookaround, conditions or references; use the field 'unless' for exceptions")
