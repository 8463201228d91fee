"""How the logs of a batch are cut into chunks, each of which is one task.

Hold in mind: a chunk must be large enough that the task, its questions to the ledger and its reply are a few hundredths of the
work, and small enough that no processor waits long for another at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attr_actors.batch_files import FoundLog

CHUNK_EFFORT_MAX = 256 << 20
"""Logs of one task, as ``effort()`` has it: some 0.3 s of work, of which the task, its share of the ledger and its reply are a few
hundredths."""
CHUNK_EFFORT_PER_CPU = 4 << 20
"""On more than 64 processors chunks may be larger: a thousand end some 200 a second, and each is a commit of the one ledger."""
CHUNK_EFFORT_MIN = 32 << 20
"""Some 40 ms: where the batch ends, processors wait for each other that long."""
CHUNKS_LEFT_PER_CPU = 8
"""A chunk is no more than such a share of what is left, so that chunks shrink towards the end, and a few times the expected work in
one of them (``effort()`` is an estimate) still ends with the others."""
CHUNK_LOGS = 256
"""What one question to the ledger and one record hold."""
MODEL_CHUNK_LOGS = 16
"""Where the model is asked a log takes seconds, and the rows of a chunk appear together."""


def cut(logs: Sequence[FoundLog], cpus: Callable[[], int], logs_max: int = CHUNK_LOGS) -> Iterator[list[FoundLog]]:
    """Cut the logs into chunks: large ones first, and ever smaller ones at the end, so that all processors are done at about one time."""
    left = sum(map(effort, logs))
    chunk: list[FoundLog] = []
    size, size_max = 0, _chunk_effort(left, cpus())
    for log in logs:
        if chunk and (size + effort(log) > size_max or len(chunk) == logs_max):
            yield chunk
            left -= size
            chunk, size, size_max = [], 0, _chunk_effort(left, cpus())
        chunk.append(log)
        size += effort(log)
    if chunk:
        yield chunk


def _chunk_effort(left: int, cpus: int) -> int:
    most = max(CHUNK_EFFORT_MAX, cpus * CHUNK_EFFORT_PER_CPU)
    return min(most, max(CHUNK_EFFORT_MIN, left // (max(1, cpus) * CHUNKS_LEFT_PER_CPU)))


def effort(log: FoundLog) -> int:
    """Return the work on a log, measured in bytes of a large log (about 1 ns each).

    Besides the scanning, up to a thousand lines are kept and judged: 1 ms for each 2 KB of text, up to some 20 ms (``bench/README.md``).
    """
    size = log.size or 0
    return size + min(512 * size, 16 << 20) + (1 << 20)
