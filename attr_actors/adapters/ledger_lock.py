"""The right to write the ledger: a lock that ends with its process, and a token that ends with its successor.

Hold in mind: the lock keeps a second writer out; the token stops a first one whose lock was lost without its knowing
(a partition on a shared file system). A writer whose token is gone never writes again. A successor that may take over
asks for the lock by touching a file beside it, and the owner gives it back between two calls.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
import uuid

from attr_actors.errors import LedgerFault, LedgerInUse

REQUEST_AGE_MAX_S = 5.0
"""A request for the lock that was not renewed for so long is of a process that is gone."""


class WriterLock:
    """The lock file beside the ledger: held by flock, and holding the token of the newest owner."""

    def __init__(self, path: str, wait_s: float, take_over: bool = False) -> None:
        """Take the lock, waiting for a dying owner, or asking a living one for it. Raises LedgerInUse naming the owner, or OSError."""
        self.path = path
        self._request = path + ".wanted"
        self._take_over = take_over
        self._signature = json.dumps({"token": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname()}).encode()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait(wait_s)
            self._sign()
            self._forget_request()
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Raise LedgerFault if another ledger has taken over since, or could: the lock file is gone."""
        found = self._read()
        if not found:
            raise LedgerFault(
                f"the ledger's file '{self.path}' was removed or emptied while the service ran; put it back, or restart the service"
            )
        if found != self._signature:
            raise LedgerFault(f"another process took over the ledger '{self.path}'; this one writes no more")

    def is_wanted(self) -> bool:
        """Tell whether a successor asks for the lock."""
        try:
            seen = os.lstat(self._request)
        except OSError:
            return False
        ours = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid()
        return ours and abs(time.time() - seen.st_mtime) < REQUEST_AGE_MAX_S

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _wait(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while not self._try():
            if self._take_over:
                self._renew_request()
            if time.monotonic() >= deadline:
                raise _in_use(self._read())
            time.sleep(0.05)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _renew_request(self) -> None:
        fd = os.open(self._request, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.utime(fd)
        finally:
            os.close(fd)

    def _forget_request(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._request)

    def _sign(self) -> None:
        os.pwrite(self._fd, self._signature, 0)
        os.ftruncate(self._fd, len(self._signature))
        os.fsync(self._fd)

    def _read(self) -> bytes:
        """Return the newest owner's signature. Opened anew each time: network file systems look at the server only then."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.read(fd, 4096)
        except OSError:
            return b""
        finally:
            os.close(fd)


def is_held(path: str) -> bool:
    """Tell whether somebody holds the lock file now. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def hold_still(path: str) -> int | None:
    """Keep writers away while the returned descriptor is open, without writing; None if there is no lock. Raises LedgerInUse, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # A copy has none.
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        signature = os.read(fd, 4096)
        os.close(fd)
        raise _in_use(signature) from None
    return fd


def _in_use(signature: bytes) -> LedgerInUse:
    owner = _parse(signature)
    return LedgerInUse(f"the ledger is in use by process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}")


def _parse(signature: bytes) -> dict[str, object]:
    try:
        found = json.loads(signature)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
