"""A hung file system holds up its own requests, and no others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from attr_actors.errors import NotFound, Overloaded, Unavailable
from attr_actors.file_threads import FileThreads, read_mounts


class Hung:
    """A file system that answers nobody until it is mended."""

    def __init__(self) -> None:
        self.mended = threading.Event()
        self.entered = 0

    def read(self) -> str:
        self.entered += 1
        assert self.mended.wait(60)
        return "late"


def threads(slots: int = 2, waiting_max: int = 100) -> FileThreads:
    return FileThreads("test", slots, waiting_max, mounts=lambda: ["/", "/nfs", "/nfs/inner"])


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - a thread changes it.
            await asyncio.sleep(0.001)


def test_a_hung_mount_keeps_its_share_of_threads_and_is_then_refused_at_once() -> None:
    hung = Hung()

    async def trial() -> None:
        files = threads()
        tasks = [asyncio.create_task(files.run("/nfs/a", hung.read, 0.05)) for _ in range(20)]
        late = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in late)
        assert (hung.entered, files.stuck, files.hung_mounts()) == (2, 2, ["/nfs"])
        before = asyncio.get_running_loop().time()
        for _ in range(1000):
            with pytest.raises(Unavailable, match="'/nfs' does not answer"):
                await files.run("/nfs/b", hung.read, 60)
        assert asyncio.get_running_loop().time() - before < 5
        assert hung.entered == 2
        assert await files.run("/other", lambda: "quick", 5) == "quick"
        assert await files.run("/nfs/inner/a", lambda: "quick", 5) == "quick"
        hung.mended.set()
        await until(lambda: files.stuck == 0)
        assert await files.run("/nfs/a", lambda: "back", 5) == "back"

    asyncio.run(trial())


def test_the_urgent_goes_before_the_background_and_what_waits_can_be_hurried() -> None:
    gate = Hung()
    order: list[str] = []

    async def trial() -> None:
        files = threads(slots=1)
        first = asyncio.create_task(files.run("/a", gate.read, 10))
        await until(lambda: gate.entered == 1)
        waiting = [
            asyncio.create_task(files.run("/a", lambda name=name: order.append(name), 10, name.startswith("background"), name))
            for name in ("background 1", "background 2", "urgent 1", "urgent 2")
        ]
        await asyncio.sleep(0)
        files.hurry("/a", "background 2")
        gate.mended.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(trial())
    assert order == ["urgent 1", "urgent 2", "background 2", "background 1"]


def test_above_the_bound_there_is_a_refusal_and_who_gives_up_leaves_no_trace() -> None:
    gate = Hung()

    async def trial() -> None:
        files = threads(slots=1, waiting_max=2)
        first = asyncio.create_task(files.run("/a", gate.read, 10))
        await until(lambda: gate.entered == 1)
        waiting = [asyncio.create_task(files.run("/a", lambda: "ran", 10)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await files.run("/a", lambda: "ran", 10)
        waiting[0].cancel()
        gate.mended.set()
        assert await asyncio.gather(first, waiting[1]) == ["late", "ran"]
        assert await files.run("/a", lambda: "ran", 10) == "ran"

    asyncio.run(trial())


def test_an_error_of_the_work_is_the_callers() -> None:
    def missing() -> None:
        raise NotFound("no such file")

    async def trial() -> None:
        files = threads(slots=1)
        for _ in range(3):
            with pytest.raises(NotFound):
                await files.run("/a", missing, 5)

    asyncio.run(trial())


def test_the_kernels_list_of_mounts_is_read() -> None:
    assert "/" in read_mounts()


def test_work_that_comes_together_fails_one_by_one_and_a_hung_mount_holds_up_no_other() -> None:
    hung = Hung()

    def missing() -> str:
        raise NotFound("gone")

    def odd() -> str:
        raise ZeroDivisionError

    async def scenario() -> None:
        files = threads()
        works = [("/a", lambda: "a"), ("/b", missing), ("/nfs/x", hung.read), ("/c", odd), ("/d", lambda: "d"), ("/nfs/y", lambda: "y")]
        answers = await files.run_together(works, 0.05)
        assert [answers[0], answers[4]] == ["a", "d"]
        assert isinstance(answers[1], NotFound)
        assert [answers[2], answers[3], answers[5]] == [None, None, None]
        hung.mended.set()
        await until(lambda: files.stuck == 0)
        assert answers[5] is None  # What came too late changes nothing any more.
        files.close()

    asyncio.run(scenario())
