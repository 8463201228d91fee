"""What a batch tells while it runs and when it is done: progress for a terminal or a job log, and the HTML report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attr_actors.core.summary import Digest, Summary
from attr_actors.errors import InvalidParameter

LINE_EVERY_S = 10.0
"""A job log is read later: a line every ten seconds is enough. A terminal is told four times a second."""
BAR_EVERY_S = 0.25
BAR_CHARS = 24


class Progress:
    """Count, rate, time left and faults: a bar that is redrawn on a terminal, plain lines elsewhere."""

    def __init__(self, write: Callable[[str], None], terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._terminal, self._clock = write, terminal, clock
        self._every_s = BAR_EVERY_S if terminal else LINE_EVERY_S
        self._logs = self._bytes = self._done = self._done_bytes = self._faults = 0
        self._started = self._told = 0.0

    def watch(self, logs: int, log_bytes: int, kept: int) -> Callable[[Sequence[Digest]], None]:
        """Announce the work; the returned function is called with what is done."""
        known = f" ({kept} answered by an earlier run)" if kept else ""
        self._write(f"{logs} logs to attribute, {log_bytes / 1e9:.2f} GB{known}\n")
        self._logs, self._bytes = logs, log_bytes
        self._started = self._told = self._clock()
        return self.add

    def add(self, digests: Sequence[Digest]) -> None:
        """Count what is done, and tell if it is time."""
        self._done += len(digests)
        self._done_bytes += sum(seen.log_bytes for seen in digests)
        self._faults += sum(seen.error_code is not None for seen in digests)
        if self._done == self._logs or self._clock() - self._told >= self._every_s:
            self._told = self._clock()
            self._write(self._line())

    def _line(self) -> str:
        passed = max(self._clock() - self._started, 1e-6)
        # By bytes where there are any: the large logs come first, so that a count of logs would promise too little.
        share = max(self._done_bytes / self._bytes if self._bytes else 0.0, self._done / self._logs)
        left_s = passed / share - passed if share else 0.0
        rate = f"{self._done / passed:.0f} logs/s, {self._done_bytes / passed / 1e6:.0f} MB/s"
        text = f"{self._done}/{self._logs} logs, {rate}, {self._faults} faults, {left_s:.0f} s left"
        if not self._terminal:
            return text + "\n"
        filled = round(BAR_CHARS * self._done / self._logs)
        end = "\n" if self._done == self._logs else ""
        return f"\r[{'#' * filled}{'.' * (BAR_CHARS - filled)}] {text}\x1b[K{end}"


def write_report(path: str, summary: Summary, target: str) -> None:
    """Write the summary as one HTML file that needs nothing else. Raises InvalidParameter if it cannot be written."""
    import jinja2

    templates = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    template = jinja2.Environment(loader=templates, autoescape=True, undefined=jinja2.StrictUndefined).get_template("report.html")
    made_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    try:
        Path(path).write_text(template.render(summary=summary, target=target, made_at=made_at), "utf-8", errors="backslashreplace")
    except OSError as exc:
        raise InvalidParameter(f"cannot write the report to '{path}': {exc.strerror}") from None
