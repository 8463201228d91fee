"""A look at a job's files: what it costs, and what it says when it may not see."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attr_actors.core import looking
from attr_actors.core.looking import Bounds, Known, Look, take_look
from attr_actors.core.paths import LogPath
from attr_actors.errors import LogsDirNotReadable, NotReadable, NotRegular, OutsideRoot
from tests.core.test_jobs_machine import as_nobody

BOUNDS = Bounds(head_bytes=2**20, files_max=100)


def log_with(root: Path, logs_dir: Path, more: str = "") -> LogPath:
    path = root / "slurm-7.out"
    path.write_text(f"<< START PATHS >>\nLOGS_DIR={logs_dir}\n<< END PATHS >>\n{more}")
    return LogPath(str(path), str(root))


def look(log: LogPath, known: Known | None = None, job_id: str | None = "7") -> Look:
    return take_look(log, job_id, known or Known(), BOUNDS, 1)


def test_an_unchanged_log_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_with(tmp_path, tmp_path / "logs")
    first = look(log)
    assert first.size is not None
    monkeypatch.setattr(looking, "read_markers", lambda *_: pytest.fail("the log was read again"))
    assert look(log, Known(first.size, first.mtime_ns, first.markers)) == first


def test_a_missing_log_is_an_answer_and_keeps_what_was_known(tmp_path: Path) -> None:
    log = log_with(tmp_path, tmp_path)
    first = look(log)
    os.unlink(log.path)
    gone = look(log, Known(first.size or 0, first.mtime_ns, first.markers))
    assert (gone.size, gone.markers) == (None, first.markers)


def test_without_a_job_id_no_directory_is_listed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = log_with(tmp_path, tmp_path / "logs")
    assert look(log, job_id=None).logs_dir is None
    assert look(log).logs_dir == str(tmp_path / "logs")


def test_a_fifo_is_refused_and_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotRegular):
        look(LogPath(str(tmp_path / "fifo"), str(tmp_path)))


def test_a_log_that_became_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to("/etc/passwd")
    with pytest.raises(OutsideRoot):
        look(LogPath(str(tmp_path / "a.log"), str(tmp_path)))


@pytest.mark.parametrize("named", ["/etc", "{root}/../..", "relative", "{root}/way-out", "{root}/nul\0byte"])
def test_a_logs_dir_from_a_log_is_admitted_like_a_request(tmp_path: Path, named: str) -> None:
    (tmp_path / "way-out").symlink_to("/etc")
    found = look(log_with(tmp_path, Path(named.format(root=tmp_path))))
    assert found.logs_dir is None
    assert found.fault is not None
    assert found.files == ()


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that any user may enter."""
    place = Path(os.path.realpath(tempfile.mkdtemp()))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o744])
def test_a_logs_dir_of_another_user_is_permission_denied(open_place: Path, mode: int) -> None:
    logs_dir = open_place / "logs"
    logs_dir.mkdir()
    (logs_dir / "m_7_cycle0.log").write_text("x")
    log = log_with(open_place, logs_dir)
    logs_dir.chmod(mode if os.geteuid() == 0 else mode & 0o077)
    with as_nobody():
        found = look(log)
    logs_dir.chmod(0o755)
    assert isinstance(found.fault, LogsDirNotReadable)
    assert "permission denied" in found.fault.message


def test_a_log_of_another_user_is_permission_denied(open_place: Path) -> None:
    log = log_with(open_place, open_place)
    os.chmod(log.path, 0o600 if os.geteuid() == 0 else 0)
    with as_nobody(), pytest.raises(NotReadable, match="permission denied"):
        look(log)


def test_a_log_that_was_not_read_through_has_no_fault_yet_and_is_read_on_though_unchanged(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = log_with(tmp_path, Path("/etc"), "line\n" * 500_000 + f"<< START PATHS >>\nLOGS_DIR={tmp_path}/logs\n<< END PATHS >>\n")
    bounds, known, seen = Bounds(4096, 100, look_bytes=2**20), Known(), []
    while not seen or seen[-1].behind:
        seen.append(take_look(log, "7", known, bounds, 1))
        known = Known(seen[-1].size or 0, seen[-1].mtime_ns, seen[-1].markers)
    assert len(seen) == 3
    assert [found.fault for found in seen] == [None] * 3
    assert [found.logs_dir for found in seen] == [None, None, str(tmp_path / "logs")]
