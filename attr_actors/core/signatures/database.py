"""The rows with their compiled automata, and the disk cache of the latter.

Hold in mind: the cache is only a shortcut. A file that is missing, foreign, damaged or from another version is compiled anew; it is
hyperscan's own format behind a checksum, read only if this user alone can write it, and never unpickled.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from attr_actors.core.signatures.gating import gate_expressions
from attr_actors.core.signatures.library import Role, Signature, load_signatures
from attr_actors.core.signatures.matching import (
    ROWS_MAX,
    HyperscanMatcher,
    Matcher,
    backend_version,
    blur_digits,
    choose_backend,
    compile_matcher,
    hyperscan,
    is_digit_sensitive,
)
from attr_actors.errors import BadSignature

MAGIC = b"attrdb4\n"
CACHE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Database:
    """All rows and the automata over them; ``clone()`` it for each scan.

    ``gate``: literals, one of which is in every line of ``events`` (None with re2).
    ``events``: the rows that may wake the scanner; ``once`` reports each of them once for a text, which costs the least (re2: more often).
    ``progress``: completed steps. ``everything``: all rows, for lines that are kept.
    ``digits``: those of ``events`` that name certain digits; ``blurred``: the same for lines whose digits were all made 0.
    ``sensitive``: the indexes of all rows that name certain digits, in their regex or their exception.
    """

    rows: tuple[Signature, ...]
    backend: str
    fingerprint: str
    events: Matcher
    progress: Matcher
    everything: Matcher
    digits: Matcher
    blurred: Matcher
    once: Matcher
    sensitive: frozenset[int]
    gate: Matcher | None = None

    def clone(self) -> Database:
        """Return the same database with scratch space of its own."""
        automata = (self.events, self.progress, self.everything, self.digits, self.blurred, self.once)
        events, progress, everything, digits, blurred, once = (matcher.clone() for matcher in automata)
        gate = self.gate.clone() if self.gate else None
        return Database(
            self.rows, self.backend, self.fingerprint, events, progress, everything, digits, blurred, once, self.sensitive, gate
        )


def open_database(operator_dir: str = "", backend: str = "auto", cache_dir: str = "") -> Database:
    """Load all rows and their automata, from ``cache_dir`` if it holds them (empty: no cache). Raises BadSignature."""
    return build_database(load_signatures(operator_dir), backend, cache_dir)


def build_database(rows: Sequence[Signature], backend: str = "auto", cache_dir: str = "") -> Database:
    """Compile or load the automata of the given rows. Raises BadSignature."""
    if len(rows) > ROWS_MAX:
        raise BadSignature(f"{len(rows)} signature rows; at most {ROWS_MAX} are allowed")
    name = choose_backend(backend)
    fingerprint = _fingerprint(rows, name)
    sensitive = frozenset(i for i, row in enumerate(rows) if is_digit_sensitive(row.regex) or is_digit_sensitive(row.unless))
    groups = _groups(rows, sensitive)
    matchers: list[Matcher] | None = None
    if name == "hyperscan" and cache_dir:
        matchers = _load(cache_dir, fingerprint, groups)
    if matchers is None:
        matchers = _compile(rows, name, groups)
        if name == "hyperscan" and cache_dir:
            _save(cache_dir, fingerprint, matchers)
    events, progress, everything, digits, blurred, once, *gates = matchers
    return Database(tuple(rows), name, fingerprint, events, progress, everything, digits, blurred, once, sensitive, *gates)


def _compile(rows: Sequence[Signature], backend: str, groups: Sequence[Sequence[int]]) -> list[Matcher]:
    """Compile all automata in the order of ``Database``, the gate last."""
    events, digits = groups[0], groups[3]
    blurred = [replace(row, regex=blur_digits(row.regex)) for row in rows]

    def compile_one(ids: Sequence[int], of: Sequence[Signature] = rows, once: bool = False) -> Matcher:
        return compile_matcher(of, ids, backend, once) if ids else _Nothing()

    found = [compile_one(ids) for ids in groups]
    found += [compile_one(digits, blurred), compile_one(events, once=True)]
    return [*found, _compile_gate(rows, events)] if backend == "hyperscan" else found


def _compile_gate(rows: Sequence[Signature], ids: Sequence[int]) -> Matcher:
    expressions = gate_expressions(rows, ids)
    return HyperscanMatcher.compile_expressions(expressions, range(len(expressions))) if expressions else _Nothing()


class _Nothing:
    """The matcher of no rows."""

    def find(self, text: object, events_max: int = 0) -> tuple[list[int], bool]:
        return [], False

    def clone(self) -> _Nothing:
        return self


def _groups(rows: Sequence[Signature], sensitive: Collection[int]) -> list[list[int]]:
    events = [i for i, row in enumerate(rows) if row.gate]
    return [
        events,
        [i for i, row in enumerate(rows) if row.role is Role.ITERATION],
        list(range(len(rows))),
        [i for i in events if i in sensitive],
    ]


def _fingerprint(rows: Sequence[Signature], backend: str) -> str:
    text = repr([(row.id, row.role, row.regex, row.unless, row.gate, row.keep, row.before, row.after) for row in rows])
    return hashlib.sha256(f"{backend} {backend_version(backend)} {text}".encode()).hexdigest()


def _load(cache_dir: str, fingerprint: str, groups: Sequence[Sequence[int]]) -> list[Matcher] | None:
    payload = _read_own_file(_cache_file(cache_dir, fingerprint))
    if payload is None or not payload.startswith(MAGIC) or hashlib.sha256(payload[40:]).digest() != payload[8:40]:
        return None
    position, matchers = 40, list[Matcher]()
    for ids in (*groups, groups[3], groups[0], (0,)):
        (length,) = struct.unpack_from("<Q", payload, position)
        position += 8
        try:
            matchers.append(HyperscanMatcher.load(payload[position : position + length], ids) if length else _Nothing())
        except hyperscan.error:
            return None
        position += length
    return matchers


def _save(cache_dir: str, fingerprint: str, matchers: Sequence[Matcher]) -> None:
    dumps = [m.dump() if isinstance(m, HyperscanMatcher) else b"" for m in matchers]
    body = b"".join(struct.pack("<Q", len(d)) + d for d in dumps)
    try:
        os.makedirs(cache_dir, mode=0o700, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=cache_dir)
        with os.fdopen(fd, "wb") as file:
            file.write(MAGIC + hashlib.sha256(body).digest() + body)
        os.replace(temporary, _cache_file(cache_dir, fingerprint))
    except OSError:
        return  # A cache that cannot be written costs a second at the next start, nothing else.


def _cache_file(cache_dir: str, fingerprint: str) -> str:
    return os.path.join(cache_dir, f"signatures-{fingerprint[:32]}.hsdb")


def _read_own_file(path: str) -> bytes | None:
    """Return a file's bytes if it is a regular file of this user that nobody else can write."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
        return file.read(CACHE_BYTES_MAX) if own and found.st_size <= CACHE_BYTES_MAX else None
