"""Takes secrets, and in strict mode identities too, out of text that leaves the cluster.

Hold in mind: a needless token costs a little wording, a leaked key costs a rotation, so doubt masks. One ``Redactor``
serves one prompt: the same value is always the same token (``host_17``), so that a reader can still relate the lines.
Identities are put back into the answer; secrets never are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from attr_actors.core.secret_patterns import ANY_KEY, HARMLESS, IDENTITIES, KEYS, SECRETS

Mode = Literal["off", "secrets", "strict"]
Span = tuple[int, int, str]
Finder = Callable[[str], Iterable[Span]]
"""Finds (start, end, kind) in a text; adapters bring finders made from a detector library."""

LINE_MAX = 4096
"""Longer lines are cut before they are searched: no evidence line is near it, and no pattern may run for long."""

TOKEN = re.compile(r"\[[a-z_]+_\d+\]")
NESTED_MAX = 2
"""A path may hold a host or a user that was replaced before it."""

RANDOM = re.compile(r"(?<![A-Za-z0-9_/.+-])[A-Za-z0-9+/=_-]{32,}")
MANGLED = re.compile(r"_{0,2}Z[NTKL]|0x|ncclUniqueId|sha\d+")
ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")

_any_key = re.compile(ANY_KEY)
_keys = tuple((kind, re.compile(pattern)) for kind, pattern in KEYS)
_secrets = tuple((kind, re.compile(pattern)) for kind, pattern in SECRETS)
_identities = tuple((kind, re.compile(pattern)) for kind, pattern in IDENTITIES)
_harmless = re.compile(HARMLESS)


class Redactor:
    """Replaces what must not leave by stable tokens, and puts identities back into an answer."""

    def __init__(self, mode: Mode = "secrets", finders: tuple[Finder, ...] = (), names: Iterable[tuple[str, str]] = ()) -> None:
        """Take extra finders of secrets, and (kind, name) pairs that are known identities (nodes, users)."""
        self.mode = mode
        self._finders = finders
        self._names = tuple(_known_name(kind, name) for kind, name in names if name) if mode == "strict" else ()
        self._tokens: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def redact(self, text: str) -> str:
        """Return the text with tokens in the place of secrets (and identities).

        Lines are cut at 4096 characters and lose their terminal colours, which would hide the start of a key.
        """
        if self.mode == "off":
            return text
        return "\n".join(self._redact_line(ANSI.sub("", line[:LINE_MAX])) for line in text.split("\n"))

    def restore(self, text: str) -> str:
        """Return the text with the identities put back in the place of their tokens; secrets stay masked."""
        for _ in range(NESTED_MAX if self._values else 0):
            text = re.sub(r"\b[a-z]+_\d+\b", lambda found: self._values.get(found.group(), found.group()), text)
        return text

    def comparable(self, text: str) -> str:
        """Return the text as it can be compared whoever redacted it: identities put back, each secret as the same mark."""
        text = self.restore(text)
        if self.mode == "off":
            return text
        return TOKEN.sub("[*]", Redactor("secrets", self._finders).redact(text))

    def _redact_line(self, line: str) -> str:
        line = self._replace(line, _merged(self._secret_spans(line)), secret=True)
        if self.mode == "strict":
            for pattern_set in (self._names, _identities):
                for kind, pattern in pattern_set:
                    line = self._replace(line, _merged(_spans(kind, pattern, line)), secret=False)
        return line

    def _secret_spans(self, line: str) -> Iterator[Span]:
        # Most lines hold no key at all, and one search tells that sooner than one for each shape.
        for kind, pattern in (*_keys, *_secrets) if _any_key.search(line) else _secrets:
            yield from _spans(kind, pattern, line)
        for finder in self._finders:
            yield from finder(line)
        yield from _random_spans(line)

    def _replace(self, line: str, spans: list[Span], secret: bool) -> str:
        done: list[str] = []
        last = 0
        for start, end, kind in spans:
            if line[start:end] in self._values:
                continue  # A token of ours, which looks like a name.
            done += [line[last:start], self._token(kind, line[start:end], secret)]
            last = end
        return "".join([*done, line[last:]]) if done else line

    def _token(self, kind: str, value: str, secret: bool) -> str:
        known = self._tokens.get(value)
        if known is None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            known = f"[{kind}_{self._counts[kind]}]" if secret else f"{kind}_{self._counts[kind]}"
            self._tokens[value] = known
            if not secret:
                self._values[known] = value
        return known


def _known_name(kind: str, name: str) -> tuple[str, re.Pattern[str]]:
    return kind, re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w])", re.IGNORECASE)


def _spans(kind: str, pattern: re.Pattern[str], line: str) -> Iterator[Span]:
    """Yield the spans to mask: the group where the pattern has one, else the whole match, unless harmless."""
    for found in pattern.finditer(line):
        group = 1 if pattern.groups else 0
        if kind in {"secret", "password"} and _harmless.fullmatch(found.group(group).rstrip(".,:")):
            continue
        if kind == "user" and re.fullmatch(r"[a-z]+_\d+", found.group(group)):
            continue
        yield found.start(group), found.end(group), kind


def _random_spans(line: str) -> Iterator[Span]:
    """Yield long runs that look drawn at random: the net under the patterns."""
    for found in RANDOM.finditer(line):
        run = found.group()
        pieces = [p for p in re.split(r"[/_=-]", run) if p]
        longest = max(pieces, key=len, default="")
        if MANGLED.match(run) or len(longest) < 20:
            continue
        kinds = sum(any(test(c) for c in longest) for test in (str.isupper, str.islower, str.isdigit))
        if kinds == 3 and entropy(longest) > 3.8:
            yield found.start(), found.end(), "secret"


def entropy(text: str) -> float:
    """Return the Shannon entropy of a text, bits per character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in (text.count(c) for c in set(text)))


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, overlapping ones joined under the kind of the first."""
    merged: list[Span] = []
    for start, end, kind in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
        elif end > start:
            merged.append((start, end, kind))
    return merged
