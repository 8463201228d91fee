"""The log files of a splitlog job: which they are, their order, which are complete, and which a request means.

Hold in mind: names inside LOGS_DIR are untrusted. Only regular files of the directory itself count; a symbolic link is
no log file, wherever it points. Clients name files, never positions, because a file found late must not shift others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from stat import S_ISREG

from attr_actors.core.paths import LogPath
from attr_actors.errors import InvalidParameter, LogsDirNotReadable, NotFound

JOB_ID_PATTERNS = tuple(
    re.compile(p)
    for p in (
        r"_(\d+)_date_",
        r"[/\\]job_(\d+)[/\\]",
        r"slurm-(\d+)\.(?:out|err|log)$",
        r"[/\\](\d{6,})\.(?:out|err|log)$",
        r"_(\d{6,})\.(?:out|err|log)$",
    )
)
"""Where schedulers and launchers put the job id into a path; the first match wins (HTTP contract, GET /logs)."""

CYCLE_NAME = re.compile(r"_cycle(\d{1,9})\.log$")
DATE_NAME = re.compile(r"_date_(\d\d)-(\d\d)-(\d\d)(?:_time_(\d\d)-(\d\d)-(\d\d))?\.log$")


@dataclass(frozen=True, slots=True)
class Listed:
    """A log file as found in LOGS_DIR."""

    name: str
    size: int
    mtime_ns: int


def job_id_from_path(path: str) -> str | None:
    """Return the scheduler's job id that a log's path carries, or None."""
    return next((m[1] for p in JOB_ID_PATTERNS if (m := p.search(path))), None)


def cycle_id_from_path(path: str) -> int | None:
    """Return the workload cycle that a log's file name carries, or None."""
    match = CYCLE_NAME.search(path)
    return int(match[1]) if match else None


def is_log_of(name: str, job_id: str) -> bool:
    """Tell whether a file name matches ``*_{job_id}_*.log`` with the id taken literally; ``*.env.log`` does not.

    Names with control characters or bytes that are no text are nobody's log either: they could not be shown or asked for.
    """
    if not name.endswith(".log") or name.endswith(".env.log") or name.startswith(".") or not name.isprintable():
        return False
    return f"_{job_id}_" in name.removesuffix(".log")


DIRS_MAX = 16
"""Directories whose names are kept at a time."""


class LogsDirs:
    """The directories listed during one round over the jobs: those that share a LOGS_DIR share one pass over it.

    Several threads may use it: what is shared is replaced as a whole, never changed in place.
    """

    def __init__(self) -> None:
        self._names: dict[str, _Names] = {}

    def names(self, logs_dir: str, job_id: str) -> list[str]:
        """Return the names of a job's files, in no order. Raises OSError."""
        known = self._names.get(logs_dir)
        if known is None:
            known = _Names(os.listdir(logs_dir))
            kept = self._names if len(self._names) < DIRS_MAX else {}  # Rounds go in order: what lies behind is done with.
            self._names = {**kept, logs_dir: known}
        return known.of(job_id)


class _Names:
    """The log names of one directory; from the second job on they are found by a part of their name."""

    def __init__(self, names: list[str]) -> None:
        self._names = [name for name in names if name.endswith(".log")]
        self._asked = False
        self._by_part: dict[str, list[str]] | None = None

    def of(self, job_id: str) -> list[str]:
        if not self._asked:
            self._asked = True
            return [name for name in self._names if is_log_of(name, job_id)]
        if self._by_part is None:
            by_part: dict[str, list[str]] = {}
            for name in self._names:
                for part in set(name.split("_")):
                    by_part.setdefault(part, []).append(name)
            self._by_part = by_part
        return [name for name in self._by_part.get(job_id.split("_")[0], ()) if is_log_of(name, job_id)]


def list_log_files(logs_dir: LogPath, job_id: str, most: int, listed: LogsDirs | None = None) -> tuple[Listed, ...]:
    """Return the job's log files in their order, the last ``most`` of them.

    One pass over the directory, whatever its size; only matching names are looked at closer. Blocks.
    Raises LogsDirNotReadable.
    """
    try:
        names = (listed or LogsDirs()).names(logs_dir.path, job_id)
        found = [file for name in names if (file := _listed(logs_dir.path, name))]
    except OSError:
        raise LogsDirNotReadable(f"permission denied or not found: LOGS_DIR '{logs_dir.path}'") from None
    return tuple(sorted(found, key=order_key)[-most:])


def _listed(logs_dir: str, name: str) -> Listed | None:
    try:
        found = os.lstat(os.path.join(logs_dir, name))
    except FileNotFoundError:  # Removed since it was listed.
        return None
    return Listed(name, found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else None


def order_key(file: Listed) -> tuple[int, int, datetime, int, str]:
    """Return the sort key: cycle files by number first, the rest by the time in their name, else by mtime.

    Names carry local time, so an mtime is compared as local time too.
    """
    match = CYCLE_NAME.search(file.name)
    if match:
        return (0, int(match[1]), datetime.min, file.mtime_ns, file.name)
    stamp = _stamp(file.name) or datetime.fromtimestamp(file.mtime_ns / 1e9)
    return (1, 0, stamp, file.mtime_ns, file.name)


def _stamp(name: str) -> datetime | None:
    match = DATE_NAME.search(name)
    if not match:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
    try:
        return datetime(2000 + year, month, day, hour, minute, second)
    except ValueError:  # 99-99-99 is no date.
        return None


def select_files(log_files: Sequence[str], terminated: bool, file: str | None, all_files: bool) -> tuple[str, ...]:
    """Return the paths that a GET of a splitlog job means, in the job's order.

    ``log_files`` are the job's files in order. Without parameters it is the last one, the one that ended the job.
    A file counts as complete once a newer one exists or the job has terminated. Raises NotFound.
    """
    if file is not None:
        named = [path for path in log_files if os.path.basename(path) == file]
        if not named:
            raise NotFound(f"file '{file}' not found")
        return tuple(named)
    if not log_files:
        raise NotFound("no log files detected yet")
    if not all_files:
        return (log_files[-1],)
    complete = tuple(log_files if terminated else log_files[:-1])
    if not complete:
        raise NotFound("no log file is complete yet; the only one found is still being written")
    return complete


def select_cycles(count: int, wl_restart: int | None) -> range:
    """Return the workload cycles of a file that a GET means: all of them, or one. Raises InvalidParameter."""
    if wl_restart is None:
        return range(count)
    if not 0 <= wl_restart < count:
        raise InvalidParameter(f"wl_restart={wl_restart} out of range (file has {count} workload cycle(s))")
    return range(wl_restart, wl_restart + 1)
