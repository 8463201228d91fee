"""What the front of a line says: rank, node, clock, level. Hold in mind: a body starts where the program's own text starts.

Launchers prefix the output of their processes. The stream of a line is who wrote it; only inside one stream does the
order of lines mean anything, because merged streams are buffered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from attr_actors.core.sparse import Piece

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_=>]")
RANK_PREFIXES = (
    re.compile(r"\[(?:rank|default|trainer|worker)_?(?:\d+\|)?(?P<rank>\d{1,6})\]:? ?"),  # torchrun --tee and PyTorch's excepthook.
    re.compile(r"\[\d+,(?P<rank>\d{1,6})\]<std(?:err|out|diag)>: ?"),  # mpirun --tag-output.
    re.compile(r"\((?P<actor>[\w.:/<>-]+(?: \w+)?)(?: rank=(?P<rank>\d{1,6}))? pid=\d+(?:, ip=(?P<node>[\w.:-]+))?\) ?"),  # Ray, vLLM.
    re.compile(r"\[pod/(?P<node>[^/\]\s]+)/(?P<actor>[^\]\s]+)\] ?"),  # kubectl logs --prefix.
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,9}(?:Z|[+-]\d\d:\d\d) (?:std(?:out|err) [FP] )?"),  # container runtimes.
)
SRUN_LABEL = re.compile(r" {0,4}(?P<rank>\d{1,5}): ?")
HOST_LABEL = re.compile(r"(?P<node>[A-Za-z][\w-]*(?:\.[\w-]+)*\d[\w.-]*): (?=\S| )")
LABEL_SHARE = 0.3
"""A bare `3:` or `node7:` is a launcher's label only where at least this share of the lines has one."""

RANK_WORDS = re.compile(r"\[Rank (\d+)\]|\brank[ :=]+(\d+)\b(?! ?/)|\bGlobal rank (\d+)|\[rank(\d+)\]", re.IGNORECASE)
NCCL_LINE = re.compile(r"^(?P<node>[\w.-]+):(?P<pid>\d+):\d+ \[(?P<gpu>\d+)\] ")
SRUN_TASK = re.compile(r"\bsrun: error: (?P<node>[\w.-]+): tasks? (?P<rank>\d+)")
SYSLOG_HOST = re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (?P<node>[\w.-]+) ")
SLURM_ON = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON (?P<node>[\w.-]+) ")

ISO_CLOCK = re.compile(r"\b(\d{4})[-/](\d\d)[-/](\d\d)[T _](\d\d):(\d\d):(\d\d)")
US_CLOCK = re.compile(r"\b(\d\d)/(\d\d)/(\d{4})[ ,]+(\d\d):(\d\d):(\d\d)")
GLOG_CLOCK = re.compile(r"(?:^|\[)[IWEF](\d\d?)(\d\d) (\d\d):(\d\d):(\d\d)")
C_CLOCK = re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})")
SYSLOG_CLOCK = re.compile(r"^([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)\b")
MONTHS = {m: i for i, m in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1)}
LEVEL = re.compile(
    r"\b(DEBUG|INFO|WARNING|(?<!NCCL )WARN|ERROR|CRITICAL|FATAL)\b|(?:^|[\[ ])([IWEF])\d{3,4} \d\d:\d\d:\d\d|\[([IWEF])(?:\]| \w)"
)
"""NCCL's WARN is its error level."""


@dataclass(eq=False)
class LogLine:
    """One piece with its prefixes read: ``body`` is the text behind them, without colours."""

    index: int
    piece: Piece
    body: str
    rank: int | None
    node: str | None
    stream: str

    @property
    def number(self) -> int:
        """Return the line number."""
        return self.piece.line_number

    @cached_property
    def at(self) -> float | None:
        """Return the line's own clock as seconds; comparable inside one file, not a true UTC instant."""
        return parse_clock(self.piece.text)

    @cached_property
    def level(self) -> str:
        """Return D, I, W, E, F (critical) or the empty text."""
        found = LEVEL.search(self.body[:160])
        if not found:
            return ""
        return (found[1] or found[2] or found[3])[0].replace("C", "F")


def parse_clock(text: str) -> float | None:
    """Return the first clock of a line as seconds since some epoch, or None."""
    head = ANSI.sub("", text[:200])
    try:
        if m := ISO_CLOCK.search(head):
            return _seconds(*(int(x) for x in m.groups()))
        if m := US_CLOCK.search(head):
            month, day, year, *clock = (int(x) for x in m.groups())
            return _seconds(year, month, day, *clock)
        if m := C_CLOCK.search(head):
            return _seconds(int(m[6]), MONTHS[m[1]], int(m[2]), int(m[3]), int(m[4]), int(m[5]))
        if m := GLOG_CLOCK.search(head):
            return _seconds(2000, *(int(x) for x in m.groups()))
        if (m := SYSLOG_CLOCK.search(head)) and m[1] in MONTHS:
            return _seconds(2000, MONTHS[m[1]], int(m[2]), int(m[3]), int(m[4]), int(m[5]))
    except (ValueError, KeyError, OverflowError):
        return None
    return None


def _seconds(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


def plain(text: str) -> str:
    """Return a text without colours."""
    return ANSI.sub("", text) if "\x1b" in text else text


def read_lines(pieces: Sequence[Piece]) -> list[LogLine]:
    """Return the lines of a sparse log with rank, node and stream, labels of a launcher recognised over the whole file."""
    texts = [plain(p.text) for p in pieces]
    label = _detect_label(texts)
    return [_read(i, piece, text, label) for i, (piece, text) in enumerate(zip(pieces, texts, strict=True))]


def _detect_label(texts: Sequence[str]) -> re.Pattern[str] | None:
    filled = [t for t in texts if t.strip()]
    for pattern in (SRUN_LABEL, HOST_LABEL):
        hits = [m for t in filled if (m := pattern.match(t))]
        names = Counter(m[0].strip() for m in hits)
        repeated = sum(n for n in names.values() if n >= 3)
        if len(filled) >= 5 and repeated >= LABEL_SHARE * len(filled):
            return pattern
    return None


def _read(index: int, piece: Piece, text: str, label: re.Pattern[str] | None) -> LogLine:
    rank: int | None = None
    node: str | None = None
    stream = ""
    position = 0
    if label and (m := label.match(text)):
        groups = m.groupdict()
        rank = int(groups["rank"]) if groups.get("rank") else None
        node = groups.get("node")
        stream, position = m[0].strip(), m.end()
    while position < len(text) and text[position] in "[(0123456789":
        found = next((m for p in RANK_PREFIXES if (m := p.match(text, position))), None)
        if not found:
            break
        groups = found.groupdict()
        if groups.get("rank"):
            rank = int(groups["rank"])
        node = groups.get("node") or node
        if groups:
            stream += found[0].strip()
        position = found.end()
    body = text[position:]
    if rank is None or node is None:
        rank, node = _from_words(body, rank, node)
    return LogLine(index, piece, body, rank, node, stream)


def _from_words(body: str, rank: int | None, node: str | None) -> tuple[int | None, str | None]:
    """Read rank and node where the message itself names its writer (NCCL, PyTorch, Slurm, the kernel)."""
    if m := NCCL_LINE.match(body):
        return rank, node or m["node"]
    if m := SRUN_TASK.search(body):
        return (int(m["rank"]) if rank is None else rank), node or m["node"]
    if node is None and ((m := SYSLOG_HOST.match(body)) or (m := SLURM_ON.search(body))):
        return rank, m["node"]
    if rank is None and (m := RANK_WORDS.search(body, 0, 300)):
        return int(next(g for g in m.groups() if g is not None)), node
    return rank, node
