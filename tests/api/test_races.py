"""Files that change into something else while they are asked for: nothing outside the root is ever served."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.conftest import OOM_LOG, Api

RACE_S = float(os.environ.get("ATTR_ACTORS_RACE_S", "0.3"))
"""How long each race runs, at least."""
ROUNDS_MIN = 30
"""A machine that asks too seldom in that time runs it for longer."""

SECRET = "the secret outside of the root"
DOCUMENTED = {200, 400, 403, 404, 503}


@contextmanager
def swapping(step: Callable[[int], None]) -> Iterator[None]:
    """Call ``step`` in a thread without a pause, but rest at times, in either face, for as long as a request takes."""
    done = threading.Event()

    def run() -> None:
        number = 0
        while not done.is_set():
            step(number)
            number += 1
            if number % 31 == 0:
                time.sleep(0.003)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def race(api: Api, path: Path, faces: set[int]) -> None:
    """Ask for a path in all ways for a while, until both faces of it were met; whatever comes is documented and holds nothing secret."""
    statuses: Counter[int] = Counter()
    started = time.monotonic()
    while time.monotonic() - started < RACE_S or statuses.total() < 3 * ROUNDS_MIN or not faces <= set(statuses):
        assert time.monotonic() - started < RACE_S + 30, statuses
        for reply in (
            api.client.get("/print", params={"log_path": str(path)}),
            api.client.get("/logs", params={"log_path": str(path)}),
            api.client.post("/logs", json={"log_path": str(path)}),
        ):
            statuses[reply.status_code] += 1
            assert SECRET not in reply.text
    assert set(statuses) <= DOCUMENTED, statuses


@pytest.fixture
def raced(open_api: Callable[..., Api], tmp_path: Path) -> Api:
    (tmp_path / "secret.log").write_text(SECRET + "\n")
    limit = "1000000/minute"
    return open_api(
        rate_limit_analyze=limit, rate_limit_submit=limit, rate_limit_preview=limit, cache_grace_period_seconds=0, answer_cache_age_max_s=0
    )


def test_a_file_that_becomes_a_link_out_of_the_root_is_not_followed(raced: Api, tmp_path: Path) -> None:
    path, spare = raced.root / "a.log", raced.root / "spare"

    def swap(number: int) -> None:
        if number % 2:
            spare.symlink_to(tmp_path / "secret.log")
        else:
            spare.write_text(OOM_LOG)
        os.replace(spare, path)

    with swapping(swap):
        race(raced, path, {200, 403})


def test_a_directory_that_becomes_a_link_out_of_the_root_is_not_entered(raced: Api, tmp_path: Path) -> None:
    inside, outside, there = raced.root / "inside", tmp_path / "outside", raced.root / "there"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.log").write_text(OOM_LOG)
    (outside / "a.log").write_text(SECRET + "\n")
    spare = raced.root / "spare"

    def swap(number: int) -> None:
        spare.symlink_to(outside if number % 2 else inside)
        os.replace(spare, there)

    with swapping(swap):
        race(raced, there / "a.log", {200, 403})


def test_a_file_that_becomes_a_fifo_hangs_nobody(raced: Api) -> None:
    path, spare = raced.root / "a.log", raced.root / "spare"

    def swap(number: int) -> None:
        if number % 2:
            os.mkfifo(spare)
        else:
            spare.write_text(OOM_LOG)
        os.replace(spare, path)

    with swapping(swap):
        race(raced, path, {200, 400})


def test_a_directory_that_comes_and_goes_is_not_found_or_answered(raced: Api) -> None:
    place, away = raced.root / "place", raced.root / "away"
    place.mkdir()
    (place / "a.log").write_text(OOM_LOG)

    with swapping(lambda number: os.rename(*((place, away) if number % 2 == 0 else (away, place)))):
        race(raced, place / "a.log", {200, 404})


@pytest.mark.parametrize(
    "path", ["/proc/self/mem", "/proc/self/environ", "/dev/zero", "/dev/tty", "/proc/self/fd/0", "/proc/self/root/etc/passwd"]
)
def test_special_files_are_refused_by_name_and_by_link(api: Api, path: str) -> None:
    (api.root / "link").symlink_to(path)
    for asked in (path, str(api.root / "link")):
        for reply in (
            api.client.get("/print", params={"log_path": asked}),
            api.client.get("/logs", params={"log_path": asked}),
            api.client.post("/logs", json={"log_path": asked}),
        ):
            assert reply.status_code in (400, 403, 404), reply.text
