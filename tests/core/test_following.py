"""A followed log: in any steps, the same scan as one pass over the finished file, and only the tail at the end."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest

from attr_actors.core import following
from attr_actors.core.engine import Engine
from attr_actors.core.following import Following
from attr_actors.core.paths import LogPath
from attr_actors.core.scan import scan_log
from attr_actors.core.signatures.database import Database
from attr_actors.errors import NotFound
from attr_actors.models import EngineConfig

BYTES_MAX = 1 << 30
LINES = [
    b" iteration %d/ 1000 | elapsed time per iteration (ms): 510.1 | lm loss: 4.21E+00 |\n",
    b"2026-05-01 10:00:00 INFO nothing to see in line %d\n",
    b"OSError: [Errno 28] No space left on device (%d)\n",
    b'Traceback (most recent call last):\n  File "/app/train.py", line %d, in <module>\n',
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate %d GiB\n",
    b"progress %d\rprogress\r\0Killed\n",
    b"INFO profiling.py:214 event=rendezvous_started Cycle: %d\n",
    b"slurmstepd: error: *** JOB %d ON n1 CANCELLED AT 2026-05-01T10:00:00 DUE TO TIME LIMIT ***\n",
    b"no end yet %d ",
    b"z" * 70_000 + b"%d",
]
RATES = [200, 50, 2, 2, 1, 5, 1, 1, 3, 1]


def text_of(rng: random.Random, lines: int) -> bytes:
    return b"".join(line % n if b"%d" in line else line for n, line in enumerate(rng.choices(LINES, RATES, k=lines)))


@pytest.mark.parametrize("seed", range(10))
def test_any_steps_give_the_scan_of_the_finished_file(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(following, "CHUNK_BYTES", 1 << 14)
    rng = random.Random(seed)
    whole = text_of(rng, rng.choice([10, 500, 12_000]))
    path = tmp_path / "a.log"
    path.touch()
    log = LogPath(str(path), str(tmp_path))
    followed = Following(database, BYTES_MAX)
    for end in [*sorted(rng.randrange(len(whole)) for _ in range(rng.randrange(1, 12))), len(whole)]:
        with path.open("ab") as f:
            f.write(whole[path.stat().st_size : end])
        if end < len(whole) or rng.random() < 0.5:
            followed.read_on(log)
    assert followed.finish(log) == scan_log(log, database, BYTES_MAX)


def test_the_end_costs_only_the_tail(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(LINES[1] % 7 * 400_000)
    log = LogPath(str(path), str(tmp_path))
    followed = Following(database, BYTES_MAX)
    followed.read_on(log)
    with path.open("ab") as f:
        f.write(LINES[2] % 7)
    taken = []
    real = following.read_blocks

    def counted(*args: object) -> object:
        for block in real(*args):  # type: ignore[arg-type]
            taken.append(block.high - block.low)
            yield block

    monkeypatch.setattr(following, "read_blocks", counted)
    done = followed.finish(log)
    assert done is not None
    assert sum(taken) == len(LINES[2] % 7)
    assert done[1].bytes_read == path.stat().st_size
    assert "No space left" in done[1].pieces[-1].text


@pytest.mark.parametrize("change", ["truncated", "truncated and grown", "replaced", "rewritten", "gone"])
def test_another_file_under_the_name_is_never_mixed_with_the_old_one(tmp_path: Path, database: Database, change: str) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(LINES[4] % 1 * 200)
    log = LogPath(str(path), str(tmp_path))
    followed = Following(database, BYTES_MAX)
    followed.read_on(log)
    match change:
        case "truncated":
            path.write_bytes(LINES[2] % 1)
        case "truncated and grown":
            path.write_bytes(LINES[2] % 1 * 500)
        case "replaced":
            (tmp_path / "b.log").write_bytes(path.read_bytes() + LINES[2] % 1)
            os.replace(tmp_path / "b.log", path)
        case "rewritten":
            with path.open("r+b") as f:
                f.seek(-40, os.SEEK_END)
                f.write(b"another text")
        case "gone":
            path.unlink()
            with pytest.raises(NotFound):
                followed.finish(log)
            return
    assert followed.finish(log) is None
    followed.read_on(log)
    assert followed.finish(log) == scan_log(log, database, BYTES_MAX)


@pytest.mark.parametrize(
    "data", [gzip.compress(LINES[4] % 1 * 9), (LINES[4] % 1).decode().encode("utf-16"), b""], ids=["gzip", "utf-16", "empty"]
)
def test_what_cannot_be_read_from_the_middle_is_scanned_from_the_start(tmp_path: Path, database: Database, data: bytes) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(data)
    log = LogPath(str(path), str(tmp_path))
    followed = Following(database, BYTES_MAX)
    followed.read_on(log)
    assert followed.finish(log) is None


def test_the_engine_gives_the_same_answer_for_a_followed_log(tmp_path: Path, database: Database, signatures_cache: str) -> None:
    engine = Engine(EngineConfig(signatures_cache_dir=signatures_cache))
    path = tmp_path / "a.log"
    path.write_bytes(LINES[0] % 1 * 100)
    log = LogPath(str(path), str(tmp_path))
    followed = engine.follow(log)
    with path.open("ab") as f:
        f.write(LINES[3] % 1 + LINES[4] % 1)
    answer = engine.analyze(log, now=0, followed=engine.follow(log, followed))
    plain = engine.analyze(log, now=0)
    assert answer.model_copy(update={"scan_s": 0}) == plain.model_copy(update={"scan_s": 0})
    assert answer.cycles[-1].category == "cuda_oom"
