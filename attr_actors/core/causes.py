"""Which exception of a chain is the cause. Hold in mind: the first raised wins, unless it is how a library tries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from attr_actors.core.lines import LogLine
from attr_actors.core.signatures.library import Role, Signature
from attr_actors.core.tracebacks import Traceback, names_exception

WRAPPERS = frozenset(
    [
        "RayTaskError",
        "ChildFailedError",
        "ProcessRaisedException",
        "ProcessExitedException",
        "CalledProcessError",
        "RemoteTraceback",
        "RayActorError",
        "TuneError",
        "InstantiationException",
        "BackendCompilerFailed",
        "TrainingFailedError",
        "DatasetGenerationError",
        "ExceptionGroup",
        "BaseExceptionGroup",
    ]
)
LOOKUPS = frozenset(
    [
        "KeyError",
        "AttributeError",
        "StopIteration",
        "IndexError",
        "ImportError",
        "ModuleNotFoundError",
        "ValueError",
        "TypeError",
        "JSONDecodeError",
        "Empty",
    ]
)
"""How libraries try: what is raised while such an error is handled is the message for people."""
MISSES = frozenset({"import_error", "data_decode"})
"""Rows of the same kind: an optional package, or a text that is tried in one form after the other."""
REQUESTS = frozenset(
    [
        "hub_unreachable",
        "http_server_error",
        "credentials",
        "object_store",
        "connection_lost",
        "name_resolution",
        "net_unreachable",
        "timeout_error",
    ]
)
"""Rows of failed requests, which each layer of an HTTP client wraps again; the outermost names what was asked for."""
UNMISTAKABLE_TIER = 2
NAN_ROW = "nan_loss"
"""What a progress line shows; an exception that speaks of NaN is read by its words."""
MESSAGE_LINES_READ = 12
CARRIED = re.compile(r"Caught \w+ in ")
"""How PyTorch announces what a worker or replica raised."""
IN_USER_CODE = "in user code:"
"""How Keras begins the message of what a traced function raised; frames follow, and the exception itself comes last."""
LISTED = re.compile(r"\d+ root error\(s\) found\.")
"""TensorFlow's exception line counts errors and lists them below."""


def choose_cause(chain: Sequence[Traceback], rows: Sequence[Signature] = ()) -> Traceback:
    """Return the exception of a chain that names the cause: the first raised one, with four exceptions.

    An interrupt and an unmistakable fact win wherever they stand; a failed lookup or a wrapper gives way to what was
    raised while it was handled; of one failed request's many layers the outermost is taken.
    """
    for trace in chain:
        if trace.name == "KeyboardInterrupt":
            return trace
    known = {id(t): best_row(t, rows) for t in chain}
    cause = _first_meant(chain, known)
    row = known[id(cause)]
    if row is None or row.tier > UNMISTAKABLE_TIER:
        facts = [t for t in chain if (r := known[id(t)]) is not None and r.tier <= UNMISTAKABLE_TIER]
        cause = facts[0] if facts else cause
    if row is not None and row.id in REQUESTS:
        layers = [t for t in chain if (r := known[id(t)]) is not None and (r.id in REQUESTS or not r.is_generic)]
        cause = next((t for t in reversed(layers) if not CARRIED.match(t.message)), cause)
    return cause


def _first_meant(chain: Sequence[Traceback], known: Mapping[int, Signature | None]) -> Traceback:
    for trace, following in pairwise(chain):
        gives_way = following.link == "during" and following.name not in WRAPPERS
        is_lookup = gives_way and _is_lookup(trace, known[id(trace)], known[id(following)])
        if trace.name not in WRAPPERS and not is_lookup:
            return trace
    return chain[-1]


def _is_lookup(trace: Traceback, row: Signature | None, following: Signature | None) -> bool:
    """Tell whether an exception is how a program tried: a failed lookup of which no row knows more, or a copy not at hand yet."""
    if trace.name in LOOKUPS:
        return row is None or row.is_generic or row.id in MISSES
    return trace.name == "FileNotFoundError" and following is not None and following.id in REQUESTS


def telling_line(trace: Traceback) -> LogLine:
    """Return the exception line, or for a wrapper the line of its message that names the exception inside."""
    assert trace.end is not None
    if trace.name in WRAPPERS:
        return next((line for line in trace.more[:MESSAGE_LINES_READ] if names_exception(line.body)), trace.end)
    if trace.message == IN_USER_CODE:
        return next((line for line in reversed(trace.more) if names_exception(line.body)), trace.end)
    if trace.more and LISTED.search(trace.message):
        return trace.more[0]
    return trace.end


def best_row(trace: Traceback, rows: Sequence[Signature]) -> Signature | None:
    assert trace.end is not None
    best = _most_specific(trace.end, rows)
    if best is None or best.is_generic or trace.name in WRAPPERS:
        for line in trace.more if trace.message == IN_USER_CODE else trace.more[:MESSAGE_LINES_READ]:
            other = _most_specific(line, rows)
            if other is not None and not other.is_generic and other.role in (Role.PRIMARY, Role.HARDWARE, Role.CASCADE):
                return other
    return best


def _most_specific(line: LogLine, rows: Sequence[Signature]) -> Signature | None:
    matched = matching_rows(line, rows)
    failing = [row for row in matched if not row.is_structural and row.role is not Role.NOISE and row.id != NAN_ROW]
    return min(failing, key=lambda r: r.tier, default=None)


def matching_rows(line: LogLine, rows: Sequence[Signature]) -> list[Signature]:
    """Return the rows that match a line; colours inside a message hide it from the scan, so such a line is read again."""
    if "\x1b" in line.piece.text and not line.piece.rows:
        return [row for row in rows if row.matches(line.body)]
    return [rows[r] for r in line.piece.rows]
