"""Grouping of Python tracebacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.lines import read_lines
from attr_actors.core.sparse import Piece
from attr_actors.core.tracebacks import Traceback, TracebackReader, read_tracebacks


def read(text: str) -> TracebackReader:
    pieces = [Piece(i, i * 1000, i * 1000, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    return read_tracebacks(read_lines(pieces))


def ended(text: str) -> list[Traceback]:
    return [t for t in read(text).tracebacks if t.end is not None]


ONE = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    main()
KeyError: 'x'
"""


def test_frames_and_source_are_inside_and_the_exception_line_is_not() -> None:
    reader = read(ONE)
    (trace,) = reader.tracebacks
    assert (trace.type, trace.message, trace.frames) == ("KeyError", "'x'", [("a.py", "<module>")])
    assert trace.end is not None
    assert trace.end.index not in reader.inside
    assert len(reader.inside) == 3


def test_a_raise_in_the_source_echo_does_not_end_the_traceback() -> None:
    lines = ["Traceback (most recent call last):", '  File "a.py", line 1, in f', '    raise ValueError("no")', "ValueError: no"]
    text = "".join(f"[rank1]: {line}\n" for line in lines)
    assert [(t.type, t.message) for t in ended(text)] == [("ValueError", "no")]


def test_chained_causes_come_in_the_order_in_which_they_were_raised() -> None:
    text = (
        ONE + "\nThe above exception was the direct cause of the following exception:\n\n" + ONE.replace("KeyError: 'x'", "RuntimeError: y")
    )
    last = ended(text)[-1]
    assert [t.type for t in last.chain()] == ["KeyError", "RuntimeError"]
    assert last.link == "caused"


def test_a_traceback_quoted_in_a_message_was_raised_first() -> None:
    text = ONE.replace("KeyError: 'x'", "RuntimeError: Caught KeyError in DataLoader worker process 0.") + "Original " + ONE
    first, quoted = ended(text)
    assert first.cause is quoted
    assert [t.type for t in first.chain()] == ["KeyError", "RuntimeError"]


def test_each_of_two_interleaved_ranks_gets_its_exception_line() -> None:
    lines = ONE.splitlines()
    text = "\n".join(line for line in lines for _ in range(2))
    assert [t.type for t in ended(text)] == ["KeyError", "KeyError"]


def test_prefixed_ranks_do_not_disturb_each_other() -> None:
    lines = [f"[rank{rank}]: {line}" for line in ONE.splitlines() for rank in (0, 1)]
    assert [(t.type, len(t.frames)) for t in ended("\n".join(lines))] == [("KeyError", 1), ("KeyError", 1)]


def test_an_ignored_exception_is_marked() -> None:
    assert ended("Exception ignored in: <function Pool.__del__ at 0x7f>\n" + ONE)[0].ignored


def test_a_caught_exception_does_not_begin_at_the_program() -> None:
    assert ended(ONE)[0].is_uncaught
    assert not ended(ONE.replace("<module>", "try_it"))[0].is_uncaught


def test_tracebacks_without_end_stay_bounded() -> None:
    reader = read("Traceback (most recent call last):\n" * 3000 + '  File "a.py", line 1, in f\n' * 3000)
    assert max(len(t.frames) for t in reader.tracebacks) <= 200


@given(st.text(alphabet=st.sampled_from('Tr acebk(mostnlp):\nFile "a.py", 1iE:KeyError|+-\x1b[0m\''), max_size=400))
def test_no_text_makes_the_reader_fail(text: str) -> None:
    for trace in read("Traceback (most recent call last):\n" + text).tracebacks:
        assert len(trace.chain()) <= 50
