"""A few literals that wake the full automaton: without one of them in it, a line matches no row.

Hold in mind: the gate may wake too often but never too seldom. Each regex is reduced to literals of which any match contains one; of
all these the fewest and rarest substrings are chosen, so that a steady log runs at the speed of a search for some hundred short words.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from importlib import import_module
from pathlib import Path
from typing import Any

from attr_actors.core.signatures.dialect import confine
from attr_actors.core.signatures.library import Signature

# The parser of ``re`` itself: what it makes of a regex is what the exact patterns mean. It is internal to CPython, and the tests
# prove for every row and for generated ones that the gate wakes.
_parser: Any = import_module("re._parser")
_op: Any = import_module("re._constants")

STEADY = (Path(__file__).parent / "steady.txt").read_bytes()
"""Lines of healthy runs: what occurs in them is no good gate, and its letter pairs tell how rare a word is."""
LITERAL_MIN = 3
SUBSTRING_LENGTHS = (4, 5, 6, 7, 8, 10)
EXPANSIONS_MAX = 64
LITERAL_COST = 2.4
"""Time that one more literal costs, in units of one needless wake per MiB (both about a microsecond; measured)."""


def gate_expressions(rows: Sequence[Signature], ids: Iterable[int]) -> list[str]:
    """Return regexes, mostly escaped literals, one of which occurs in every line that matches a row."""
    wanted: set[bytes] = set()
    whole: list[str] = []
    for i in ids:
        literals = None if "(?i" in rows[i].regex else required_literals(rows[i].regex)
        if literals is None or min(map(len, literals)) < LITERAL_MIN:
            whole.append(confine(rows[i].regex))
        else:
            wanted |= literals
    return [*whole, *(_escape(literal) for literal in choose_literals(wanted))]


def required_literals(regex: str) -> frozenset[bytes] | None:
    """Return literals of which every match contains at least one, or None if there are none."""
    exact, required = _analyse(_parser.parse(regex.encode()))
    best = _better(exact, required)
    return None if best is None or b"" in best else best


def choose_literals(wanted: Iterable[bytes]) -> list[bytes]:
    """Return few and rare substrings such that each wanted literal contains one of them."""
    left = set(wanted)
    holders: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for literal in left:
        for part in _substrings(literal):
            holders[part].add(literal)
    heap = [(-len(held) / _price(part), part) for part, held in holders.items()]
    heapify(heap)
    chosen = []
    while left:
        _, part = heappop(heap)
        held = holders[part] & left
        worth = -len(held) / _price(part)
        if held and heap and worth > heap[0][0]:
            heappush(heap, (worth, part))  # Others have been covered since; it has to wait for its turn.
        elif held:
            chosen.append(part)
            left -= held
    return sorted(chosen)


def _substrings(literal: bytes) -> set[bytes]:
    parts = {literal[i : i + n] for n in SUBSTRING_LENGTHS for i in range(len(literal) - n + 1)}
    return {part for part in parts if part not in STEADY} | {literal}


def _letter_pairs() -> dict[bytes, float]:
    pairs = Counter(STEADY[i : i + 2] for i in range(len(STEADY) - 1))
    firsts = Counter(STEADY[i : i + 1] for i in range(len(STEADY) - 1))
    return {pair: math.log(count / firsts[pair[:1]]) for pair, count in pairs.items()}


_PAIRS = _letter_pairs()
_UNSEEN = math.log(1e-3)
_LETTERS = Counter(STEADY[i : i + 1] for i in range(len(STEADY)))


def _wakes_per_mib(part: bytes) -> float:
    """Estimate how often a word occurs by chance in a MiB of steady text."""
    if part in STEADY:
        return STEADY.count(part) / len(STEADY) * (1 << 20)
    likelihood = math.log(max(_LETTERS[part[:1]], 1) / len(STEADY))
    likelihood += sum(_PAIRS.get(part[i : i + 2], _UNSEEN) for i in range(len(part) - 1))
    return math.exp(likelihood) * (1 << 20)


def _escape(literal: bytes) -> str:
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in literal)


Literals = frozenset[bytes]
_EMPTY: Literals = frozenset({b""})


def _better(one: Literals | None, other: Literals | None) -> Literals | None:
    """Return the set that makes the cheaper gate."""
    return min((one, other), key=_price_of_all)


def _price_of_all(literals: Literals | None) -> float:
    if not literals or min(map(len, literals)) < LITERAL_MIN:
        return math.inf if not literals or b"" in literals else 1e9
    return sum(_price_of(literal) for literal in literals)


@cache
def _price_of(literal: bytes) -> float:
    return min(_price(part) for part in _substrings(literal))


@cache
def _price(part: bytes) -> float:
    return LITERAL_COST + _wakes_per_mib(part)


def _analyse(nodes: Any) -> tuple[Literals | None, Literals | None]:
    """Return for a sequence all texts it matches (None: too many), and literals one of which is in each of them."""
    exact: Literals | None = _EMPTY
    run: Literals = _EMPTY
    required: Literals | None = None
    for op, argument in nodes:
        texts, inner = _analyse_node(op, argument)
        required = _better(required, inner)
        if texts is not None and len(texts) * len(run) <= EXPANSIONS_MAX:
            run = frozenset(a + b for a in run for b in texts)
            exact = run if exact is not None else None
            continue
        required = _better(required, run)
        exact = None
        run = texts if texts is not None and len(texts) <= EXPANSIONS_MAX else _EMPTY
    return exact, _better(required, run)


def _analyse_node(op: Any, argument: Any) -> tuple[Literals | None, Literals | None]:
    if op is _op.LITERAL:
        return frozenset({bytes([argument])}), None
    if op is _op.AT:
        return _EMPTY, None
    if op is _op.IN:
        return _characters(argument), None
    if op is _op.SUBPATTERN:
        return _analyse(argument[3])
    if op is _op.BRANCH:
        return _analyse_branches(argument[1])
    if op in (_op.MAX_REPEAT, _op.MIN_REPEAT):
        return _analyse_repeat(*argument)
    return None, None


def _characters(items: Any) -> Literals | None:
    if len(items) > 4 or any(op is not _op.LITERAL for op, _ in items):
        return None
    return frozenset(bytes([argument]) for _, argument in items)


def _analyse_branches(branches: Any) -> tuple[Literals | None, Literals | None]:
    results = [_analyse(branch) for branch in branches]
    exact = None if any(texts is None for texts, _ in results) else frozenset().union(*(texts or () for texts, _ in results))
    parts = [_better(texts, inner) for texts, inner in results]
    required = None if any(part is None for part in parts) else frozenset().union(*(part or () for part in parts))
    return exact, required


def _analyse_repeat(low: int, high: int, nodes: Any) -> tuple[Literals | None, Literals | None]:
    texts, inner = _analyse(nodes)
    if low == 0:
        return (texts | _EMPTY if texts is not None and high == 1 else None), None
    return (texts if low == high == 1 else None), _better(texts, inner)
