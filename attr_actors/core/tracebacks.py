"""Python tracebacks in a sparse log: frames, exception lines, chains. Hold in mind: ranks print them interleaved.

A traceback is read per stream. Where several processes share one stream without prefixes, headers pile up and exception
lines follow later in any order; each exception line then closes one of the open tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from attr_actors.core.lines import LogLine

HEADER = re.compile(r"Traceback \(most recent call last\)|\bTraceback \(innermost last\)")
FRAME = re.compile(r'^[\s|│]*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?')
ENTRY = re.compile(r"<module>|<frozen |runpy|_bootstrap|spawn|_wrap\b|multiprocessing|threading|/bin/|<string>|ray/|remote")
BAR = re.compile(r"^\s*[|+](?:[-+]+ \d+ -+|-+)?\s?")
"""What an exception group draws in front of its members."""
BOX = re.compile(r"^\s*[│╭╰┃┏┗]")
EXCEPTION = re.compile(
    r"^(?:[|+ ]*)(?P<type>(?:[A-Za-z_]\w*\.)*(?:_?[A-Z]\w*|[a-z_]\w*(?:error|exception|exit|timeout)|timeout"
    r"|error|gaierror|herror)(?:\([\w.]+\))?)(?:: ?(?P<message>.*)|\s*)$"
)
REPRESENTED = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)\(.*\)\s*$")
"""An exception as ``repr()`` shows it, which is how Hydra quotes the one inside."""
ERROR_NAME = re.compile(
    r"(?:Error|Exception|Interrupt|Exit|Warning|Timeout|Abort|Failure|Fault|Empty|Full|StopIteration|Killed|OOM"
    r"|Signal|Expired|NotFound|Cancelled|error|timeout)\w*(?:\([\w.]+\))?$"
)
NO_EXCEPTIONS = frozenset({"Failures"})
"""Headings of torchelastic's summary."""
CAUSED = "The above exception was the direct cause of the following exception"
DURING = "During handling of the above exception, another exception occurred"
INNER = re.compile(
    r"^\s*Original Traceback|-- Process \d+ terminated with the following error|RemoteTraceback|^\s*Exception Group Traceback"
)
IGNORED = re.compile(
    r"^Exception ignored (?:in|on)\b|^Error in (?:sys\.excepthook|atexit)|^Exception in thread .*\((?:_monitor"
    r"|pin_memory)|^--- Logging error ---|^(?:Future|Task) exception was never retrieved|^Exception in callback "
)
NEW_RECORD = re.compile(
    r"^\[?\d{4}[-/]\d|^\[?\d\d[:/]\d\d|^[IWEF]\d{4} |^\[[IWEF][ \d]|^(?:srun|slurmstepd|wandb|mpirun|pdsh|bash"
    r"|sh|sbatch)(?:@\S+)?: |^[A-Z][a-z]{2} [ \d]\d \d\d:"
    r"|^\[ *\d+\.\d+\] |^\S+\.py:\d+: \w*Warning|\d+%\|"
)
"""How lines begin that cannot belong to an exception's message."""
CLOCKED = re.compile(r"\d.*\W$")
"""A logger's prefix holds a clock or a number."""
LEVEL_DIGITS = str.maketrans("123456789", "000000000")
MESSAGE_OVER = 99
FRAMES_MAX = 200
MESSAGE_LINES_MAX = 60
STRAY_LINES_MAX = 40


@dataclass(eq=False)
class Traceback:
    """One traceback. ``end`` is the exception line; ``inner`` tracebacks are quoted in this one's message."""

    header: LogLine
    stream: str
    frames: list[tuple[str, str]] = field(default_factory=list)
    end: LogLine | None = None
    type: str = ""
    message: str = ""
    more: list[LogLine] = field(default_factory=list)
    cause: Traceback | None = None
    link: str = ""
    ignored: bool = False
    stray: int = 0

    @property
    def name(self) -> str:
        """Return the exception's class name without its module."""
        return self.type.split("(")[0].rsplit(".", 1)[-1]

    @property
    def is_uncaught(self) -> bool:
        """Tell whether the frames begin where a program or a process begins: a caught exception shows only frames below its handler.

        Hydra ends a program with the frames of the task only, and says how to see the others.
        """
        if not self.frames or ENTRY.search(f"{self.frames[0][0]} {self.frames[0][1]}"):
            return True
        return any("HYDRA_FULL_ERROR" in line.body for line in self.more)

    @property
    def text(self) -> str:
        """Return the exception line and what follows it as one text."""
        return "\n".join([self.end.body if self.end else "", *(line.body for line in self.more[:30])])

    def chain(self) -> list[Traceback]:
        """Return the chained tracebacks, the first raised first."""
        links: list[Traceback] = []
        at: Traceback | None = self
        while at is not None and len(links) < 50:
            links.append(at)
            at = at.cause
        return links[::-1]


@dataclass
class _Stream:
    """What is open in one stream."""

    open: list[Traceback] = field(default_factory=list)
    last: Traceback | None = None
    link: str = ""
    quiet: int = 0
    ignored: bool = False
    grouped: bool = False
    prefix: str = ""


class TracebackReader:
    """Reads lines in order and groups them; ``inside`` holds the indices of frames and echoed source."""

    def __init__(self) -> None:
        self.tracebacks: list[Traceback] = []
        self.inside: set[int] = set()
        self._streams: dict[str, _Stream] = {}

    def read(self, lines: Iterable[LogLine]) -> None:
        """Read all lines."""
        for line in lines:
            self._read(line, self._streams.setdefault(line.stream, _Stream()))

    def _read(self, line: LogLine, stream: _Stream) -> None:
        head = HEADER.search(line.body)
        if head:
            stream.prefix = line.body[: head.start()] if CLOCKED.search(line.body[: head.start()]) else ""
        elif stream.prefix and _alike(line.body[: len(stream.prefix)], stream.prefix):
            line.body = line.body[len(stream.prefix) :]  # For all who read the line later, too: the text of the program begins here.
        body = line.body
        if stream.grouped:
            body = BAR.sub("", body)
        if head:
            self._open(line, stream)
        elif stream.open:
            self._in_traceback(line, body, stream)
        elif (m := FRAME.match(body)) and stream.last is not None and stream.quiet <= 3:
            # Ray quotes the frames of a remote task without a header of their own.
            self._open(line, stream, link="inner")
            self._frame(line, stream.open[-1], m)
        else:
            self._outside(line, stream)

    def _open(self, line: LogLine, stream: _Stream, link: str = "") -> None:
        if not link:
            link = "inner" if INNER.search(line.body) or stream.grouped else stream.link
        previous = stream.last if link else None
        found = Traceback(line, line.stream, cause=previous if link != "inner" else None, link=link, ignored=stream.ignored)
        is_sibling = stream.grouped and previous is not None and previous.link == "inner"  # Members of a group did not cause each other.
        if link == "inner" and previous is not None and previous.cause is None and not is_sibling:
            previous.cause = found  # What is quoted inside a message was raised first.
        self.tracebacks.append(found)
        self.inside.add(line.index)
        stream.open.append(found)
        stream.link, stream.ignored, stream.quiet = "", False, 0
        stream.grouped = stream.grouped or "Exception Group Traceback" in line.body

    def _in_traceback(self, line: LogLine, body: str, stream: _Stream) -> None:
        current = stream.open[-1]
        if m := FRAME.match(body):
            self._frame(line, current, m)
        elif body[:1] in (" ", "\t", "") or BOX.match(body) or not body.strip():
            self.inside.add(line.index)
        elif (m := EXCEPTION.match(body)) and (current.frames or ERROR_NAME.search(m["type"])) and _is_exception(m):
            current.end, current.type, current.message = line, m["type"], m["message"] or ""
            stream.open.pop()
            stream.last, stream.quiet = current, 0
        else:
            current.stray += 1
            if current.stray > STRAY_LINES_MAX:
                stream.open.clear()

    def _frame(self, line: LogLine, current: Traceback, found: re.Match[str]) -> None:
        self.inside.add(line.index)
        if len(current.frames) < FRAMES_MAX:
            current.frames.append((found["file"], found["function"] or ""))

    def _outside(self, line: LogLine, stream: _Stream) -> None:
        body = line.body
        if CAUSED in body or DURING in body:
            stream.link = "caused" if CAUSED in body else "during"
            self.inside.add(line.index)
        elif IGNORED.search(body):
            stream.ignored = True
        elif stream.ignored and EXCEPTION.match(body):
            self.inside.add(line.index)
            stream.ignored = False
        elif INNER.search(body):
            stream.link = "inner"
            self.inside.add(line.index)
        elif stream.last is not None and len(stream.last.more) < MESSAGE_LINES_MAX and stream.quiet <= 2:
            if NEW_RECORD.search(body):
                stream.quiet = MESSAGE_OVER
            elif body.strip():
                stream.last.more.append(line)
            else:
                stream.quiet += 1


def _alike(text: str, prefix: str) -> bool:
    """Tell whether a line begins as the head of the traceback does, but for digits: a logger's prefix stands before each of its lines."""
    return text.translate(LEVEL_DIGITS) == prefix.translate(LEVEL_DIGITS)


def _is_exception(found: re.Match[str]) -> bool:
    """Tell an exception line from a print that happens to start with a capital word."""
    name, message = found["type"], found["message"]
    if name in NO_EXCEPTIONS:
        return False
    return bool(ERROR_NAME.search(name)) or "." in name or (message is None or message == "") or name.lstrip("_")[:1].isupper()


def names_exception(text: str) -> bool:
    """Tell whether a line begins with an exception's name, as the last line of a traceback does."""
    found = EXCEPTION.match(text)
    if found is None or found["type"] in NO_EXCEPTIONS:
        return REPRESENTED.match(text) is not None
    return bool(ERROR_NAME.search(found["type"])) or "." in found["type"]


def read_tracebacks(lines: Sequence[LogLine]) -> TracebackReader:
    """Group the tracebacks of a sparse log."""
    reader = TracebackReader()
    reader.read(lines)
    return reader
