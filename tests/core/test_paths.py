"""admit() and open_log(): what gets in, and what does not."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.paths import LogPath, admit, admit_logs_dir, check_readable, open_log
from attr_actors.errors import AttrError, InvalidPath, LogsDirNotReadable, NotFound, NotReadable, NotRegular, OutsideRoot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


@pytest.mark.parametrize("raw", ["", "relative.log", "./x", "/a\0b", "/a\nb", "/a\x7fb", "/" + "x" * 10_000, "/\ud800"])
def test_a_malformed_path_is_invalid(raw: str, root: Path) -> None:
    with pytest.raises(InvalidPath):
        admit(raw, str(root))


def test_a_path_outside_the_root_is_refused_even_if_it_does_not_exist(root: Path) -> None:
    for raw in ("/etc/passwd", f"{root}/../x.log", f"{root}-twin/x.log", "/"):
        with pytest.raises(OutsideRoot):
            admit(raw, str(root))


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_resolved(root: Path) -> None:
    (root / "out").symlink_to("/etc")
    (root / "a.log").write_text("x")
    (root / "in.log").symlink_to(root / "a.log")
    with pytest.raises(OutsideRoot):
        admit(f"{root}/out/passwd", str(root))
    assert admit(f"{root}/in.log", str(root)).path == str((root / "a.log").resolve())


def test_the_case_of_a_path_survives_in_the_message(root: Path) -> None:
    with pytest.raises(NotFound, match="MyJob"):
        open_log(admit(f"{root}/MyJob.log", str(root)))


def test_a_fifo_is_refused_without_being_opened(root: Path) -> None:
    os.mkfifo(root / "fifo")
    done = threading.Event()

    def try_it() -> None:
        with pytest.raises(NotRegular):
            open_log(admit(f"{root}/fifo", str(root)))
        done.set()

    threading.Thread(target=try_it, daemon=True).start()
    assert done.wait(5)


def test_directories_sockets_and_devices_are_not_regular(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "sock"))
        for raw, place in ((f"{root}", root), (f"{root}/sock", root), ("/dev/null", Path("/dev"))):
            with pytest.raises(NotRegular):
                check_readable(admit(raw, str(place)))


def test_a_link_swapped_in_after_the_check_is_not_followed(root: Path) -> None:
    log = root / "a.log"
    log.write_text("x")
    admitted = admit(str(log), str(root))
    log.unlink()
    log.symlink_to("/etc/passwd")
    with pytest.raises(OutsideRoot):
        open_log(admitted)


def test_a_directory_swapped_in_after_the_check_is_caught_by_the_descriptor(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.log").write_text("secret")
    (root / "d").symlink_to(secret)
    with pytest.raises(OutsideRoot):
        open_log(LogPath(f"{root}/d/a.log", str(root)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_says_so(root: Path) -> None:
    (root / "a.log").write_text("x")
    (root / "a.log").chmod(0)
    with pytest.raises(NotReadable, match="permission denied"):
        open_log(admit(f"{root}/a.log", str(root)))


def test_a_missing_logs_dir_is_not_readable(root: Path) -> None:
    with pytest.raises(LogsDirNotReadable):
        admit_logs_dir(f"{root}/none", str(root))


@given(st.text())
def test_any_text_is_admitted_inside_the_root_or_refused(raw: str) -> None:
    try:
        admitted = admit(raw, "/var/log")
    except AttrError:
        return
    assert admitted.path == admitted.root or admitted.path.startswith(admitted.root + "/")
