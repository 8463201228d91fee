"""The only place where a string becomes a path, and the only place where a log is opened.

Hold in mind: a path is checked twice. ``admit()`` checks the name; ``open_log()`` checks the opened descriptor, because
a link can be swapped in between. Both block on the file system: call them from a thread, never on an event loop.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from attr_actors.errors import EmptyFile, InvalidPath, LogsDirNotReadable, NotFound, NotReadable, NotRegular, OutsideRoot, Unavailable

PATH_BYTES_MAX = 4096
"""Linux's PATH_MAX: no longer path can be opened."""

ROOT_AGAIN_S = 30.0
"""When to ask again while the root is not mounted."""


class LogPath(NamedTuple):
    """A resolved absolute path that lies inside ``root``, itself resolved. The file need not exist."""

    path: str
    root: str


def admit(raw: str, root: str) -> LogPath:
    """Check and resolve a path from outside or from a log.

    Raises InvalidPath (empty, relative, over 4096 bytes, NUL or control characters), OutsideRoot, NotReadable (a
    directory on the way may not be searched). A file that does not exist is admitted if its directory would be.
    """
    if not raw:
        raise InvalidPath("log_path is empty; send an absolute path")
    if any(ord(c) < 32 or ord(c) == 127 for c in raw):
        raise InvalidPath("log_path holds NUL or control characters")
    try:
        length = len(os.fsencode(raw))
    except UnicodeEncodeError:
        raise InvalidPath("log_path is not valid text") from None
    if length > PATH_BYTES_MAX:
        raise InvalidPath(f"log_path is {length} bytes long; at most {PATH_BYTES_MAX} are allowed")
    if not raw.startswith("/"):
        raise InvalidPath(f"log_path must be absolute, got '{raw}'")
    try:
        resolved = os.path.realpath(raw)
    except OSError:
        raise InvalidPath(f"log_path cannot be resolved: '{raw}'") from None
    real_root = os.path.realpath(root)
    if not is_inside(resolved, real_root):
        raise OutsideRoot(f"'{raw}' is outside the allowed root")
    return LogPath(resolved, real_root)


def is_inside(resolved: str, real_root: str) -> bool:
    """Tell whether a resolved path lies inside a resolved root (the root itself does)."""
    return resolved == real_root or resolved.startswith(real_root.rstrip("/") + "/")


def stat_log(log: LogPath) -> os.stat_result:
    """Stat an admitted log. Raises NotFound, NotReadable, NotRegular, or Unavailable while the root itself is not there."""
    try:
        found = os.stat(log.path, follow_symlinks=False)
    except OSError as exc:
        raise _translate(exc, log) from None
    return _regular(found, log.path)


def open_log(log: LogPath) -> int:
    """Open an admitted log for reading and return its descriptor, which the caller closes.

    Never blocks on a FIFO or device, never follows a link, and refuses a descriptor that ended up outside the root
    because a directory was swapped. Raises NotFound, NotReadable, NotRegular, OutsideRoot.
    """
    stat_log(log)
    try:
        fd = os.open(log.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as exc:
        raise _translate(exc, log) from None
    try:
        _regular(os.fstat(fd), log.path)
        if not is_inside(os.path.realpath(f"/proc/self/fd/{fd}"), log.root):
            raise OutsideRoot(f"'{log.path}' is outside the allowed root")
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_readable(log: LogPath) -> os.stat_result:
    """Open and close a log to prove that it can be read; return its stat. Raises like open_log()."""
    fd = open_log(log)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def check_not_empty(log: LogPath) -> os.stat_result:
    """Prove that a log can be read and says something; return its stat. Raises like open_log(), and EmptyFile."""
    found = check_readable(log)
    if found.st_size == 0:
        raise EmptyFile(f"log file is empty: '{log.path}'")
    return found


def admit_logs_dir(raw: str, root: str) -> LogPath:
    """Check a LOGS_DIR found in a log. Raises like admit(), and LogsDirNotReadable."""
    found = admit(raw, root)
    if not os.path.isdir(found.path) or not os.access(found.path, os.R_OK | os.X_OK):
        raise LogsDirNotReadable(f"permission denied or not found: LOGS_DIR '{raw}'")
    return found


def _regular(found: os.stat_result, path: str) -> os.stat_result:
    if stat.S_ISREG(found.st_mode):
        return found
    if stat.S_ISLNK(found.st_mode):
        raise OutsideRoot(f"'{path}' became a symbolic link after it was checked")
    kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
    raise NotRegular(f"'{path}' is {kind}; send the path of a log file")


def _translate(exc: OSError, log: LogPath) -> Exception:
    path = log.path
    if isinstance(exc, PermissionError):
        return NotReadable(f"permission denied: '{path}'")
    if isinstance(exc, (FileNotFoundError, NotADirectoryError)):
        if not os.path.isdir(log.root):
            return Unavailable(f"the root '{log.root}' is not there; is it mounted?", ROOT_AGAIN_S)
        return NotFound(f"log file not found: '{path}'")
    if exc.errno == errno.ELOOP:
        return OutsideRoot(f"'{path}' became a symbolic link after it was checked")
    return NotReadable(f"cannot read '{path}': {exc.strerror}")
