"""One multi-pattern automaton over many rows: hyperscan where there is a wheel, else re2.

Hold in mind: ``find()`` is exact, not a filter. Rows are confined to one line (dialect.py), so both engines report the lines that
Python's ``re`` would; only rows with ``unless`` and overlong lines need another look. A matcher is not shared between threads:
``clone()`` gives each scan its own scratch over the same read-only automaton.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from attr_actors.core.signatures.dialect import confine
from attr_actors.core.signatures.library import Signature
from attr_actors.errors import BadSignature


def _import_or_none(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:  # No wheel for this platform.
        return None


hyperscan = _import_or_none("hyperscan")
re2 = _import_or_none("re2")

ROW_BITS = 12
"""An event is ``end << ROW_BITS | row``: one int costs half of a tuple, and events sort by place."""
ROWS_MAX = 1 << ROW_BITS
ROW_MASK = ROWS_MAX - 1
RE2_MEMORY_BYTES = 64 << 20
"""re2 builds its states while it reads; with fewer bytes it throws them away on every noisy log."""
RE2_STEP_BYTES = 16_384


class Matcher(Protocol):
    """Finds the lines of a text that match any of its rows."""

    def find(self, text: Any, events_max: int = 1 << 62) -> tuple[list[int], bool]:
        """Return events in the order of their ends, and whether there were more than ``events_max``.

        ``text`` is bytes-like; an event's end lies after the match and inside its line. A row may be reported several times for a line.
        """

    def clone(self) -> Matcher:
        """Return a matcher over the same automaton for another thread."""


class HyperscanMatcher:
    """Vectorscan in block mode."""

    def __init__(self, automaton: Any, ids: tuple[int, ...], scratch: Any = None) -> None:
        self._automaton = automaton
        self._ids = ids
        self._scratch = scratch or hyperscan.Scratch(automaton)

    @classmethod
    def compile(cls, rows: Sequence[Signature], ids: Sequence[int], once: bool = False) -> HyperscanMatcher:
        """Compile the given rows (about 2 ms each). Raises BadSignature for what hyperscan cannot read."""
        try:
            return cls.compile_expressions([confine(rows[i].regex) for i in ids], ids, once)
        except hyperscan.error:
            raise BadSignature(_first_fault(rows, ids)) from None

    @classmethod
    def compile_expressions(cls, expressions: Sequence[str], ids: Sequence[int], once: bool = False) -> HyperscanMatcher:
        """Compile confined regexes; with ``once`` each is reported once for a text. Raises hyperscan.error."""
        automaton = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        flag = hyperscan.HS_FLAG_MULTILINE | (hyperscan.HS_FLAG_SINGLEMATCH if once else 0)
        automaton.compile(expressions=[e.encode() for e in expressions], ids=list(ids), flags=[flag] * len(ids))
        return cls(automaton, tuple(ids))

    @classmethod
    def load(cls, dump: bytes, ids: Sequence[int]) -> HyperscanMatcher:
        """Load a dump of this machine. Raises hyperscan.error for a dump of another version or processor."""
        return cls(hyperscan.loadb(dump, hyperscan.HS_MODE_BLOCK), tuple(ids))

    def dump(self) -> bytes:
        """Return the automaton in a form that loads in milliseconds."""
        return bytes(hyperscan.dumpb(self._automaton))

    def clone(self) -> HyperscanMatcher:
        """Return a matcher over the same automaton for another thread."""
        return HyperscanMatcher(self._automaton, self._ids, self._scratch.clone())

    def find(self, text: Any, events_max: int = 1 << 62) -> tuple[list[int], bool]:
        """Return events in the order of their ends, and whether there were more than ``events_max``."""
        events: list[int] = []
        append = events.append

        def on_match(row: int, _from: int, end: int, _flags: int, _context: object) -> None:
            append(end << ROW_BITS | row)

        def on_bounded_match(row: int, _from: int, end: int, _flags: int, _context: object) -> bool:
            append(end << ROW_BITS | row)
            return len(events) > events_max

        handler = on_bounded_match if events_max < len(text) else on_match
        try:
            self._automaton.scan(text, match_event_handler=handler, scratch=self._scratch)
        except hyperscan.ScanTerminated:
            return events, True
        return events, False


def _first_fault(rows: Sequence[Signature], ids: Sequence[int]) -> str:
    for i in ids:
        try:
            hyperscan.Database().compile(expressions=[confine(rows[i].regex).encode()], ids=[0], flags=[hyperscan.HS_FLAG_MULTILINE])
        except hyperscan.error as exc:
            return f"{rows[i].file}: row '{rows[i].id}': hyperscan cannot read the regex: {exc}"
    return "the signature rows are too large together for hyperscan"


class Re2Matcher:
    """re2: slower, but there is a wheel for every platform."""

    def __init__(self, whole: Any, rows: Sequence[Signature], ids: tuple[int, ...]) -> None:
        self._whole = whole
        self._rows = rows
        self._ids = ids

    @classmethod
    def compile(cls, rows: Sequence[Signature], ids: Sequence[int]) -> Re2Matcher:
        """Compile the given rows. Raises BadSignature for what re2 cannot read."""
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = RE2_MEMORY_BYTES
        options.log_errors = False
        whole = re2.Set.SearchSet(options)
        for i in ids:
            try:
                whole.Add(("(?m)" + confine(rows[i].regex)).encode().decode("latin-1"))
            except re2.error as exc:
                raise BadSignature(f"{rows[i].file}: row '{rows[i].id}': re2 cannot read the regex: {exc}") from None
        whole.Compile()
        return cls(whole, rows, tuple(ids))

    def clone(self) -> Re2Matcher:
        """Return itself: re2 guards its states."""
        return self

    def find(self, text: Any, events_max: int = 1 << 62) -> tuple[list[int], bool]:
        """Return events in the order of their ends, and whether there were more than ``events_max``."""
        block = bytes(text)
        events: list[int] = []
        if not self._match(block):
            return events, False
        end = 0
        for line in block.split(b"\n"):
            found = self._match(line) if line else []
            if found:
                # A long line is reported at every step, because re2 tells only that a row matches somewhere in it.
                places = (
                    [*range(end + 1, end + len(line), RE2_STEP_BYTES), end + len(line)] if len(line) > RE2_STEP_BYTES else [end + len(line)]
                )
                events += [place << ROW_BITS | row for place in places for row in found]
                if len(events) > events_max:
                    return events, True
            end += len(line) + 1
        return events, False

    def _match(self, text: bytes) -> list[int]:
        found = self._whole.Match(text)
        if found is None:  # re2 ran out of states; every row is tried, slowly.
            return [i for i in self._ids if self._rows[i].pattern.search(text)]
        return [self._ids[i] for i in found]


def compile_matcher(rows: Sequence[Signature], ids: Sequence[int], backend: str, once: bool = False) -> HyperscanMatcher | Re2Matcher:
    """Compile rows for a backend named by ``choose_backend()``; ``once`` is a wish that re2 does not know."""
    return HyperscanMatcher.compile(rows, ids, once) if backend == "hyperscan" else Re2Matcher.compile(rows, ids)


def choose_backend(wanted: str) -> str:
    """Return "hyperscan" or "re2" for a setting of "auto", "hyperscan" or "re2". Raises BadSignature when it is not installed."""
    found = {"hyperscan": hyperscan is not None, "re2": re2 is not None}
    name = wanted if wanted != "auto" else next((n for n, there in found.items() if there), "hyperscan")
    if not found[name]:
        raise BadSignature(f"the scanner library for scan_backend '{name}' is not installed on this platform")
    return name


def backend_version(backend: str) -> str:
    """Return the library version that a compiled dump belongs to."""
    module = hyperscan if backend == "hyperscan" else re2
    return str(getattr(module, "__version__", "unknown"))


SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
DIGIT_SENSITIVE = re.compile(r"\\x[0-9a-f]{2}|\\.|\{[\d,]+\}|\[\^?0-9\]|(?P<digit>\d)", re.IGNORECASE)


def is_digit_sensitive(regex: str) -> bool:
    """Tell whether exchanging one digit of a line for another may change the match (the regex names certain digits)."""
    return any(found.group("digit") for found in DIGIT_SENSITIVE.finditer(regex))


NEGATED_DIGITS = re.compile(r"\[\^(?!0-9\])[^\]]*\d")


def blur_digits(regex: str) -> str:
    """Return a regex that matches a line with all digits made 0 wherever ``regex`` matches the line as it is."""
    if NEGATED_DIGITS.search(regex):
        return "."
    unnamed = re.sub(r"\(\?P<\w+>", "(?:", regex)
    return DIGIT_SENSITIVE.sub(lambda found: "0" if found.group("digit") else found.group(), unnamed)
