"""The engine: one log in, one analysis out. Hold in mind: the same bytes and the same rows always give the same answer."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Collection, Sequence

from attr_actors.core.attempts import Span, split_attempts, split_cycles
from attr_actors.core.attribute import attribute, decide
from attr_actors.core.evidence import Evidence, collect_evidence
from attr_actors.core.following import Following
from attr_actors.core.lines import LogLine, read_lines
from attr_actors.core.paths import LogPath
from attr_actors.core.progress import main_counter
from attr_actors.core.scan import scan_log
from attr_actors.core.signatures.database import Database, open_database
from attr_actors.core.signatures.library import Signature
from attr_actors.core.sparse import Scan
from attr_actors.core.tracebacks import TracebackReader, read_tracebacks
from attr_actors.core.verdicts import Verdict
from attr_actors.models import Analysis, Attempt, Attribution, EngineConfig, Snapshot

VERSION = "3"
"""Raised whenever the same rows could give another answer: older entries are then computed again."""
ATTEMPTS_MAX = 64


@functools.lru_cache(maxsize=4)
def _database(signatures_dir: str, backend: str, cache_dir: str) -> Database:
    """Open a database once per process: engines share it, each scan clones its scratch space."""
    return open_database(signatures_dir, backend, cache_dir)


class Engine:
    """Analyses logs; re-entrant, one per process. Raises BadSignature for an operator's bad row."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self._database = _database(self.config.signatures_dir, self.config.scan_backend, self.config.signatures_cache_dir)
        self.rows = self._database.rows
        self.fingerprint = fingerprint(self.rows, self.config)

    def follow(self, log: LogPath, followed: Following | None = None) -> Following:
        """Read on in a log that grows, from where ``followed`` ended. Raises like analyze(); an empty log is no error."""
        followed = followed or Following(self._database, self.config.scan_bytes_max)
        followed.read_on(log)
        return followed

    def analyze(self, log: LogPath, now: float | None = None, followed: Following | None = None) -> Analysis:
        """Return the analysis of an admitted log. Raises EmptyFile, NotFound, NotReadable, NotRegular, OutsideRoot.

        Of a ``followed`` log only the rest is read; the answer is the same. What was followed cannot be used again.
        """
        started = time.perf_counter()
        done = followed.finish(log) if followed else None
        snapshot, scan = done or scan_log(log, self._database, self.config.scan_bytes_max)
        cycles = attribute_scan(scan, self.rows, self.config.evidence_bytes_max)
        return Analysis(
            snapshot=snapshot,
            engine=self.fingerprint,
            cycles=cycles,
            result_id=result_id(snapshot, self.fingerprint, cycles),
            analysed_at=time.time() if now is None else now,
            scan_s=time.perf_counter() - started,
            log_bytes=scan.bytes_read,
        )


def fingerprint(rows: Sequence[Signature], config: EngineConfig) -> str:
    """Return a short hash of everything that shapes an answer: engine version, rows and limits; not where rows come from."""
    known = [
        (r.id, r.role, r.category, r.tier, r.action, r.owner, r.regex, r.unless, r.why, r.keep, r.before, r.after, r.gate) for r in rows
    ]
    text = json.dumps([VERSION, config.evidence_bytes_max, known], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def result_id(snapshot: Snapshot, engine: str, cycles: Sequence[Attribution]) -> str:
    """Return the content address of an analysis: canonical JSON without timings, hashed."""
    content = {"snapshot": snapshot.model_dump(mode="json"), "engine": engine, "cycles": [c.model_dump(mode="json") for c in cycles]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def attribute_scan(
    scan: Scan, rows: Sequence[Signature], evidence_bytes_max: int, without: Collection[str] = ()
) -> tuple[Attribution, ...]:
    """Return one attribution per workload cycle of a scanned log."""
    lines = read_lines(scan.pieces)
    reader = read_tracebacks(lines)
    found = []
    for cycle, first, last in split_cycles(lines):
        spans = [(first + a, first + b) for a, b in split_attempts(lines[first:last], rows)]
        history = [_judge(lines, rows, reader, span, without) for span in spans[-ATTEMPTS_MAX:]]
        attempts = [_attempt(lines, cycle, evidence, verdict) for evidence, verdict in history]
        found.append(attribute(*history[-1], attempts, evidence_bytes_max, scan))
    return tuple(found)


def _judge(
    lines: Sequence[LogLine], rows: Sequence[Signature], reader: TracebackReader, span: Span, without: Collection[str]
) -> tuple[Evidence, Verdict]:
    """Return the evidence of one attempt and the verdict over it."""
    evidence = collect_evidence(lines, rows, reader, *span)
    return evidence, decide(evidence, without)


def _attempt(lines: Sequence[LogLine], cycle: int, evidence: Evidence, verdict: Verdict) -> Attempt:
    """Return one attempt for the history: where it is, how it ended, how far it came."""
    main = main_counter(evidence.steps)
    return Attempt(
        wl_restart=cycle,
        first_line=lines[evidence.first].number if lines else 1,
        last_line=lines[evidence.last - 1].number if lines else 1,
        signature=verdict.signature,
        last_iteration=main[-1].shown if main else None,
    )
