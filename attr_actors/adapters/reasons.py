"""Why a system outside could not be reached, in words that an operator can act on; all sinks use the same.

Hold in mind: they go to /healthz and logs, so that they name host and port and never a URL, which may hold a secret.
"""

from __future__ import annotations

import os
import socket
import ssl


def reason_of(exc: BaseException) -> str:
    """Return what is at the root of a request without a reply, as the system says it: ``connection refused``, ``timed out``."""
    chain: list[BaseException] = [exc]
    while before := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(before)
    return next(filter(None, map(_words, reversed(chain))), f"no usable reply ({type(exc).__name__})")


def _words(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"TLS: {exc.reason or 'failed'}".replace("_", " ").lower()
    if isinstance(exc, socket.gaierror):
        return str(exc.strerror).lower()
    if isinstance(exc, TimeoutError):
        return "timed out"
    return os.strerror(exc.errno).lower() if isinstance(exc, OSError) and exc.errno and exc.errno > 0 else ""
