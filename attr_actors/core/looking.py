"""One look at a job's files: what the file system says now, as a value that the job book can judge.

Hold in mind: a look costs what changed. An unchanged log is only stat'ed, a grown one is read from where the last look
ended, a bounded part at a time (``Look.behind``: there is more). Everything here blocks: call it from a thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from attr_actors.core.markers import LOOK_BYTES, LOOK_S, Markers, read_markers
from attr_actors.core.paths import LogPath, admit_logs_dir, stat_log
from attr_actors.core.splitlog import Listed, LogsDirs, list_log_files
from attr_actors.errors import LogsDirNotReadable, NotFound, NotReadable, RequestError


class Known(NamedTuple):
    """What is remembered of a log from the last look."""

    size: int = -1
    mtime_ns: int = 0
    markers: Markers = Markers()


class Bounds(NamedTuple):
    """How much a look may read and return."""

    head_bytes: int
    files_max: int
    look_bytes: int = LOOK_BYTES
    look_s: float = LOOK_S


@dataclass(frozen=True, slots=True)
class Look:
    """A log, its markers and, where it names a LOGS_DIR, the job's files there."""

    number: int
    """Counts up with the moment at which the look began, so that an older one cannot overwrite a newer one."""
    size: int | None = None
    """None: there is no such file (yet, or any more)."""
    mtime_ns: int = 0
    markers: Markers = field(default_factory=Markers)
    logs_dir: str | None = None
    """The LOGS_DIR that the log names, resolved and admitted; None also while it does not exist."""
    files: tuple[Listed, ...] = ()
    fault: RequestError | None = None
    """Why the LOGS_DIR may not be used. A log that was not read through may yet name another one, and has no fault."""

    @property
    def behind(self) -> bool:
        """Tell whether the log was not read through yet."""
        return self.markers.is_behind(self.size)


def take_look(log: LogPath, job_id: str | None, known: Known, bounds: Bounds, number: int, listed: LogsDirs | None = None) -> Look:
    """Look at a log. Raises NotReadable, NotRegular, OutsideRoot; a missing file is an answer, not an error.

    ``listed`` shares the passes over directories with other looks of the same round.
    """
    try:
        found = stat_log(log)
        markers = known.markers
        changed = (found.st_size, found.st_mtime_ns) != (known.size, known.mtime_ns) or found.st_ino != markers.inode
        if changed or markers.is_behind(found.st_size):
            markers = read_markers(log, known.markers, bounds.head_bytes, bounds.look_bytes, bounds.look_s)
    except NotFound:
        return Look(number, None, 0, known.markers)
    except OSError as exc:
        raise NotReadable(f"cannot read '{log.path}': {exc.strerror}") from None
    look = Look(number, found.st_size, found.st_mtime_ns, markers)
    if job_id is None or markers.logs_dir is None:
        return look
    try:
        logs_dir = admit_logs_dir(markers.logs_dir, log.root)
        files = list_log_files(logs_dir, job_id, bounds.files_max, listed)
    except RequestError as fault:
        if look.behind:
            return look
        if isinstance(fault, LogsDirNotReadable) and not os.path.lexists(markers.logs_dir):
            return look  # Launchers announce the directory before they make it.
        return Look(look.number, look.size, look.mtime_ns, look.markers, fault=fault)
    return Look(look.number, look.size, look.mtime_ns, look.markers, logs_dir.path, files)
