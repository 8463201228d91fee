"""Inputs that are meant to hurt a scanner: floods, endless lines, binary, other encodings, compressed files and bombs."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

EQUAL = b"[rank3]: RuntimeError: CUDA error: an illegal memory access was encountered\n"
NOTE = b"[rank3]: RuntimeError: CUDA error: uncorrectable ECC error encountered\n"


def _repeat(unit: bytes) -> Iterator[bytes]:
    chunk = unit * max(1, (1 << 20) // len(unit))
    while True:
        yield chunk


def _equal() -> Iterator[bytes]:
    return _repeat(EQUAL)


def _numbered() -> Iterator[bytes]:
    number = 0
    while True:
        yield b"".join(
            b"[rank%d]: RuntimeError: CUDA error: unspecified launch failure in kernel %d\n" % (n % 512, n)
            for n in range(number, number + 9_000)
        )
        number += 9_000


def _different() -> Iterator[bytes]:
    rng = random.Random(1)
    while True:
        yield b"".join(
            b"[rank%d]:   ncclRemoteError: call %s failed, peer %s closed\n"
            % (rng.randrange(512), rng.randbytes(12).hex().encode(), rng.randbytes(6).hex().encode())
            for _ in range(9_000)
        )


def _tracebacks() -> Iterator[bytes]:
    frame = b'  File "/opt/train/model.py", line %d, in forward\n    return self.block_%d(x)\n'
    body = b"".join(frame % (n, n) for n in range(40))
    unit = (
        b"Traceback (most recent call last):\n"
        + body
        + b"ValueError: depth\n\nDuring handling of the above exception, another exception occurred:\n\n"
    )
    return _repeat(unit)


def _errors_among_steps() -> Iterator[bytes]:
    number = 0
    while True:
        yield b"".join(
            b" iteration %8d/ 9000000 | lm loss: 2.1E+00 |\nRuntimeError: NCCL error: unhandled system error\n" % n
            for n in range(number, number + 9_000)
        )
        number += 9_000


def _endless() -> Iterator[bytes]:
    return _repeat(b"x" * 4_096)


def _endless_errors() -> Iterator[bytes]:
    return _repeat(EQUAL.rstrip() + b" ")


def _binary() -> Iterator[bytes]:
    chunk = random.Random(2).randbytes(16 << 20)
    while True:
        yield chunk


def _nul() -> Iterator[bytes]:
    return _repeat(b"\0" * 4_096)


def _bars() -> Iterator[bytes]:
    return _repeat(
        b"".join(b"\rEpoch 3: %3d%%|####      | %d/2500 [10:02<10:52, 1.99it/s, loss=0.412]" % (n % 100, n) for n in range(2_000))
    )


def _utf16() -> Iterator[bytes]:
    yield "\ufeff".encode("utf-16-le")
    line = " iteration 48210/ 500000 | lm loss: 2.113984E+00 | grad norm: 0.214 |\n"
    yield from _repeat((line * 200 + EQUAL.decode()).encode("utf-16-le"))


PLAIN: dict[str, Callable[[], Iterator[bytes]]] = {
    "every line the same error": _equal,
    "every line an error, numbered": _numbered,
    "every line an error, all different": _different,
    "an error after every step": _errors_among_steps,
    "tracebacks without end": _tracebacks,
    "one endless line": _endless,
    "one endless line of errors": _endless_errors,
    "binary": _binary,
    "NUL": _nul,
    "progress bars with carriage returns": _bars,
    "UTF-16": _utf16,
}


def write_plain(path: Path, name: str, size: int) -> int:
    """Write an input of about ``size`` bytes that ends in one hardware error."""
    ending = NOTE.decode().encode("utf-16-le") if name == "UTF-16" else b"\n" + NOTE
    written = 0
    with path.open("wb") as file:
        for chunk in PLAIN[name]():
            written += file.write(chunk)
            if written >= size:
                break
        file.write(ending)
    return path.stat().st_size


def write_compressed(path: Path, source: Path, kind: str) -> int:
    """Compress a file; return the size of its text."""
    with source.open("rb") as plain:
        if kind == "gzip":
            with gzip.open(path, "wb", compresslevel=1) as packed:
                while chunk := plain.read(1 << 20):
                    packed.write(chunk)
        else:
            with path.open("wb") as target:
                zstandard.ZstdCompressor(level=3).copy_stream(plain, target)
    return source.stat().st_size


def write_bomb(path: Path, size: int) -> int:
    """Write a small zstd file that unpacks to ``size`` bytes."""
    with path.open("wb") as target, zstandard.ZstdCompressor(level=3).stream_writer(target, closefd=False) as writer:
        chunk = bytes(1 << 20)
        for _ in range(size >> 20):
            writer.write(chunk)
    return os.path.getsize(path)
