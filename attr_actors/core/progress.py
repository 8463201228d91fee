"""How far a run came: steps, losses, checkpoints, ends. Hold in mind: a redraw or a NaN line is not a new step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from attr_actors.core.lines import LogLine
from attr_actors.models import Progress

STEP = re.compile(
    r"""(?ix)
    \b(?:iteration|iter|step|global_step|steps|itr|update)\b["']?[\s:=\#\[(|/]{0,8}(?P<step>\d[\d,]*)
    | \|\s*(?P<bar>\d+)/(?P<bar_total>\d+)\s\[
    | ^\s*(?P<lead>\d+)/\d+\s{2,}
    | \bepoch\b["']?[\s:=\#\[(|/]{0,6}(?P<epoch>\d+)(?:\.(?P<part>\d{1,6}))?\]?[\s,]{0,3}(?:\[\s*(?P<batch>\d+)\s*/\s*\d+\])?
    """
)
INSIDE_EPOCH = (
    re.compile(r"""(?i)\b(?:iteration|iter|step|batch|itr|update)\b["']?[\s:=\#\[(|/]{0,8}(?P<count>\d+)"""),
    re.compile(r"\|\s*(?P<count>\d+)/\d+\s\["),
    re.compile(r"[\[:(]\s*(?P<count>\d+)\s?/\s?\d+\b"),
)
"""Where a line that names its epoch counts inside it, most telling first."""
NAN_LOSS = re.compile(r"""(?i)(?:\bloss|[_a-z]loss)\w*["']?\s*(?:is|=|:|\||\s|->)\s*\[?(?:tensor\()?["']?-?(?:nan|inf)\b""")
LOSS = re.compile(r"""(?i)(?:\bloss|[_a-z]loss)\w*["']?\s*[:=|]?\s*\[?(?:tensor\()?["']?-?\d""")
NAN_GRADIENT = re.compile(r"""(?i)\bgrad(?:ient)?[_ ]?norm\w*["']?\s*[=:|]\s*["']?-?(?:nan|inf)\b""")
NONZERO_LOSS = re.compile(r"""(?i)(?:\bloss|[_a-z]loss)\w*["']?\s*[:=|]?\s*\[?(?:tensor\()?["']?-?[\d.]*[1-9]""")
SAVED_AT = re.compile(r"(?i)(?:iteration|iter|step|epoch|checkpoint-|global_step)[\s_:=-]*(\d+)")
EPOCH = 1_000_000
"""An epoch's count leaves room for its batches."""
EARLIER_STEPS = 300
LATER_STEPS = 300
ENDS_READ = 40


def shows_no_number(body: str) -> bool:
    """Tell whether a line shows a loss that is no number, or a gradient that is none beside no loss or a loss of zero."""
    return NAN_LOSS.search(body) is not None or only_gradient_is_nan(body)


def only_gradient_is_nan(body: str) -> bool:
    """Tell whether a gradient norm is no number where no loss proves that the step was good; a good loss means a skipped step."""
    return NAN_GRADIENT.search(body) is not None and NONZERO_LOSS.search(body) is None and NAN_LOSS.search(body) is None


class Step:
    """A completed step as a line shows it; read only where it is asked for, because steady logs hold thousands.

    ``number`` counts within one ``kind`` of counter; None where no counter is read.
    """

    def __init__(self, line: LogLine) -> None:
        self.line = line

    @cached_property
    def counter(self) -> tuple[str, int | None]:
        """Return the kind of the counter and its number."""
        found = STEP.search(self.line.body)
        if not found:
            return "", None
        groups = found.groupdict()
        if groups["step"]:
            return "step", int(groups["step"].replace(",", ""))
        if groups["bar"]:
            return "bar" + groups["bar_total"], int(groups["bar"])
        inside = (m["count"] for pattern in INSIDE_EPOCH if (m := pattern.search(self.line.body, found.end())))
        part = f"{groups['part']:0<6}" if groups["part"] else None
        count = groups["batch"] or part or next(inside, "0")
        return "epoch", int(groups["epoch"] or groups["lead"]) * EPOCH + int(count) % EPOCH

    @property
    def kind(self) -> str:
        """Return the kind of counter: step, epoch, or a bar with its total."""
        return self.counter[0]

    @property
    def number(self) -> int | None:
        """Return the count, an epoch's with its batch."""
        return self.counter[1]

    @property
    def shown(self) -> int | None:
        """Return the count for people."""
        kind, number = self.counter
        return number // EPOCH if kind == "epoch" and number is not None else number

    @cached_property
    def is_finite(self) -> bool:
        """Tell whether no shown loss is NaN or infinite."""
        return not shows_no_number(self.line.body)

    @cached_property
    def shows_loss(self) -> bool:
        """Tell whether a loss is shown at all."""
        return not self.is_finite or LOSS.search(self.line.body) is not None


NEW_STEPS_MIN = 2
"""New steps that show progress: a single one may have been under way."""


def made_progress_after(steps: Sequence[Step], place: int, stream: str) -> bool:
    """Tell whether enough of the steps from ``place`` on are new and finite, in a stream where one is named.

    A redrawn bar or a buffered print repeats a counter that was there shortly before; it is not counted.
    """
    later = [s for s in steps[place : place + LATER_STEPS] if not (stream and s.line.stream and s.line.stream != stream) and s.is_finite]
    if len(later) < NEW_STEPS_MIN:
        return False
    before = steps[max(0, place - EARLIER_STEPS) : place]
    known = {s.counter if s.number is not None else s.line.body for s in before}
    fresh = {s.counter if s.number is not None else s.line.body for s in later}
    return len(fresh - known) >= NEW_STEPS_MIN


def nan_until_the_end(steps: Sequence[Step]) -> bool:
    """Tell whether the last step that shows a loss shows one that is no number."""
    last = next((s for s in reversed(steps) if s.shows_loss), None)
    return last is not None and not last.is_finite


def loss_is_finite_after(steps: Sequence[Step], index: int) -> bool:
    """Tell whether a later step shows a loss that is a number."""
    return any(s.line.index > index and s.shows_loss and s.is_finite for s in steps)


def summarize(steps: Sequence[Step], saves: Sequence[LogLine], last_at: float | None) -> Progress:
    """Return the progress of an attempt: first and last step, last checkpoint, step time, time since the checkpoint."""
    main = main_counter(steps)
    saved = next((int(m[1]) for line in reversed(saves) if (m := SAVED_AT.search(line.body))), None)
    saved_at = next((line.at for line in reversed(saves) if line.at is not None), None)
    return Progress(
        first_iteration=main[0].shown if main else None,
        last_iteration=main[-1].shown if main else None,
        last_checkpoint=saved,
        last_checkpoint_line=saves[-1].number if saves else None,
        time_lost_s=last_at - saved_at if last_at is not None and saved_at is not None and last_at >= saved_at else None,
        step_time_s=step_time(main),
    )


def main_counter(steps: Sequence[Step]) -> list[Step]:
    """Return the steps at both ends of an attempt, of the counter that says most."""
    ends = [*steps[:ENDS_READ], *steps[max(ENDS_READ, len(steps) - ENDS_READ) :]]
    counted = [s for s in ends if s.number is not None and s.is_finite]
    return [s for s in counted if s.kind == "step"] or [s for s in counted if s.kind == "epoch"] or counted


def step_time(steps: Sequence[Step]) -> float | None:
    """Return the mean seconds per step between the first and the last step with a clock, or None."""
    timed = [s for s in steps if s.number is not None and s.line.at is not None]
    if len(timed) < 2:
        return None
    first, last = timed[0], timed[-1]
    assert first.number is not None
    assert last.number is not None
    assert first.line.at is not None
    assert last.line.at is not None
    moved, took = last.number - first.number, last.line.at - first.line.at
    if first.kind != last.kind or moved <= 0 or took <= 0 or first.kind == "epoch":
        return None
    return took / moved
