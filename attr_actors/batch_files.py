"""What a batch reads and writes: the list of logs, and the results file that a later run takes up again."""

from __future__ import annotations

import fcntl
import glob
import os
import pwd
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from pydantic import ValidationError

from attr_actors.core.grounding import wants_opinion
from attr_actors.core.paths import PATH_BYTES_MAX
from attr_actors.core.result_rows import ResultRow
from attr_actors.errors import InvalidParameter, NotFound, Unavailable

ROOT = "/"
"""A batch reads with the rights of its user, like ``analyze``: there is nobody to protect from its own caller."""
SUFFIXES = (".log", ".out", ".err", ".txt", ".log.gz", ".out.gz", ".log.zst", ".out.zst")
"""What counts as a log in a directory; a glob or a list names files of any name."""
STAT_THREADS = 16
"""Shared file systems answer a stat in about a millisecond; asked together, 50,000 files take seconds."""
LASTING = frozenset({"empty_file", "not_regular", "outside_root", "invalid_path", "analysis_failed"})
"""Faults that stay while the file stays as it is; other faults are tried again by the next run."""


class FoundLog(NamedTuple):
    """One log to attribute, and where links lead. A log that cannot be seen has size None."""

    path: str
    real: str = ""
    size: int | None = None
    mtime_ns: int | None = None
    user: str | None = None

    @property
    def name(self) -> str:
        """The path as text, also where the file's name is none."""
        return self.path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def find_logs(target: str) -> list[FoundLog]:
    """Return the logs of a directory (recursively, by suffix), a glob, a list (a file of paths, ``@FILE`` or ``-``), or one log.

    Each once, largest first, so that no large one is left for the end. Raises NotFound when there is none.
    """
    names = dict.fromkeys(os.path.abspath(name) for name in _names(target))
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        found = list(pool.map(_look, names, chunksize=64))
    if not found:
        raise NotFound(f"no logs found in '{target}' (a directory is searched for {', '.join(SUFFIXES)})")
    return sorted(found, key=lambda log: (-(log.size or 0), log.path))


def _names(target: str) -> Iterable[str]:
    if target == "-":
        return _listed(sys.stdin)
    if target.startswith("@"):
        return _read_list(target[1:])
    if os.path.isdir(target):
        return _walk(target)
    if os.path.isfile(target):
        return _read_list(target) if _is_list(target) else [target]
    return glob.glob(target, recursive=True)


def _walk(directory: str) -> Iterator[str]:
    for place, _, names in os.walk(directory):
        yield from (os.path.join(place, name) for name in names if name.endswith(SUFFIXES) and not name.startswith("."))


def _is_list(path: str) -> bool:
    """Tell whether the first line of a file is the absolute path of something that exists, as no log's first line is."""
    with open(path, "rb") as file:
        first = file.readline(PATH_BYTES_MAX + 1).strip()
    return first.startswith(b"/") and os.path.lexists(first)


def _read_list(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return list(_listed(file))
    except OSError as exc:
        raise NotFound(f"cannot read the list '{path}': {exc.strerror}") from None


def _listed(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip())


def _look(path: str) -> FoundLog:
    try:
        seen = os.stat(path)
    except (OSError, ValueError):  # The analysis says why.
        return FoundLog(path)
    return FoundLog(path, os.path.realpath(path), seen.st_size, seen.st_mtime_ns, _user_name(seen.st_uid))


@lru_cache(1024)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class ResultsFile:
    """RESULTS.jsonl: one row per log, appended as answers come, held by one run at a time."""

    def __init__(self, path: str) -> None:
        """Open or create the file. Raises InvalidParameter if it cannot be written, Unavailable if another run writes it."""
        self.path = os.path.abspath(path)
        try:
            self._file: BinaryIO = open(self.path, "a+b")  # noqa: SIM115  # Closed by close().
        except OSError as exc:
            raise InvalidParameter(f"cannot write the results to '{path}': {exc.strerror}") from None
        self._lock()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def take_up(self, logs: Iterable[FoundLog], engine: str, keep: Callable[[ResultRow], None], with_model: bool = False) -> list[FoundLog]:
        """Return the logs that still need an answer; call ``keep`` for each row that stays.

        A row stays while its log and the engine are the same and, ``with_model``, unless the model's opinion is still wanted.
        Others go, and a torn last line (a killed run) with them.
        """
        wanted = {log.name: log for log in logs}
        dropped = set()
        self._file.seek(0)
        for number, line in enumerate(self._file):
            row = _parse(line)
            if row is None or not _stands(row, wanted.get(row.log_path), engine, with_model):
                dropped.add(number)
                continue
            wanted.pop(row.log_path, None)
            keep(row)
        if dropped:
            self._rewrite(dropped)
        return list(wanted.values())

    def append(self, rows: Iterable[bytes]) -> None:
        """Add rows; they are in the file, and survive a kill of this process, when this returns."""
        self._file.write(b"".join(row + b"\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Put everything on disk and let the file go."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _rewrite(self, dropped: set[int]) -> None:
        self._file.seek(0)
        draft = Path(f"{self.path}.tmp")
        with draft.open("wb") as file:
            file.writelines(line for number, line in enumerate(self._file) if number not in dropped)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        self._file.close()
        self._file = open(self.path, "a+b")  # noqa: SIM115  # Closed by close().
        self._lock()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Unavailable(f"another batch writes '{self.path}'") from None


def read_rows(path: str) -> Iterator[ResultRow]:
    """Yield the rows of a results file, one at a time; a torn last line is left out."""
    with open(path, "rb") as file:
        yield from filter(None, map(_parse, file))


def _parse(line: bytes) -> ResultRow | None:
    try:
        return ResultRow.model_validate_json(line) if line.endswith(b"\n") else None
    except ValidationError:
        return None


def _stands(row: ResultRow, log: FoundLog | None, engine: str, with_model: bool) -> bool:
    """Tell whether a row is still the answer. Rows of logs that are not asked for now are left alone."""
    if log is None:
        return True
    if log.size is None or (row.size, row.mtime_ns) != (log.size, log.mtime_ns):
        return False
    if row.attribution is None:
        return row.error_code in LASTING
    return row.engine == engine and not (with_model and wants_opinion(row.attribution))
