"""How far a run came: steps, losses, checkpoints, ends. Hold in mind: a redraw or a NaN line is not a new step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from attr_actors.core.lines import LogLine
from attr_actors.models import Progress

STEP = re.compile(
    r"""(?ix)
    \b(?:iteration|iter|step|global_step|steps|itr|update)\b["']?[\s:=\#\[(|/]{0,8}(?P<step>\d[\d,]*)
    | \|\s*(?P<bar>\d+)/(?P<bar_total>\d+)\s\[
    | \bepoch\b["']?[\s:=\#\[(|]{0,6}(?P<epoch>\d+)(?:\.\d+)?\]?[\s,]{0,3}(?:\[\s*(?P<batch>\d+)\s*/\s*\d+\])?
    """
)
NAN_LOSS = re.compile(r"""(?i)(?:\bloss|[_a-z]loss)\w*["']?\s*(?:is|=|:|\||\s|->)\s*\[?(?:tensor\()?["']?-?(?:nan|inf)\b""")
LOSS = re.compile(r"""(?i)(?:\bloss|[_a-z]loss)\w*["']?\s*[:=|]?\s*\[?(?:tensor\()?["']?-?\d""")
SAVED_AT = re.compile(r"(?i)(?:iteration|iter|step|epoch|checkpoint-|global_step)[\s_:=-]*(\d+)")
CHANGING = re.compile(r"\d+")


class Step(NamedTuple):
    """A completed step as a line shows it. ``number`` counts within one kind of counter; None where no counter is read.

    ``is_finite`` is False where a shown loss is no number; ``shows_loss`` tells whether a loss is shown at all.
    """

    line: LogLine
    number: int | None
    kind: str
    is_finite: bool
    shows_loss: bool


def parse_step(line: LogLine) -> Step:
    """Read the counter and the loss of a progress line."""
    finite = NAN_LOSS.search(line.body) is None
    shown = not finite or LOSS.search(line.body) is not None
    found = STEP.search(line.body)
    if not found:
        return Step(line, None, "", finite, shown)
    kind = found.lastgroup or ""
    groups = found.groupdict()
    if groups["step"]:
        return Step(line, int(groups["step"].replace(",", "")), "step", finite, shown)
    if groups["bar"]:
        return Step(line, int(groups["bar"]), "bar" + groups["bar_total"], finite, shown)
    if groups["epoch"]:
        number = int(groups["epoch"]) * 1_000_000 + int(groups["batch"] or 0)
        return Step(line, number, "epoch", finite, shown)
    return Step(line, None, kind, finite, shown)


def made_progress_after(steps: Sequence[Step], index: int, stream: str, new_steps: int = 2) -> bool:
    """Tell whether at least ``new_steps`` new finite steps were completed after a line, in its stream where it has one.

    A redrawn bar or a buffered print repeats a counter that was there before; it is not counted.
    """
    known = {(s.kind, s.number) for s in steps if s.line.index < index and s.number is not None}
    texts = {s.line.body for s in steps if s.line.index < index}
    fresh: set[object] = set()
    for step in steps:
        if step.line.index <= index or not step.is_finite or (stream and step.line.stream and step.line.stream != stream):
            continue
        if step.number is None:
            if step.line.body not in texts:
                fresh.add(CHANGING.sub("#", step.line.body)[:40] + str(len(fresh)))
        elif (step.kind, step.number) not in known:
            fresh.add((step.kind, step.number))
        if len(fresh) >= new_steps:
            return True
    return False


def nan_until_the_end(steps: Sequence[Step]) -> bool:
    """Tell whether the last step that shows a loss shows one that is no number."""
    last = next((s for s in reversed(steps) if s.shows_loss), None)
    return last is not None and not last.is_finite


def loss_is_finite_after(steps: Sequence[Step], index: int) -> bool:
    """Tell whether a later step shows a loss that is a number."""
    return any(s.line.index > index and s.shows_loss and s.is_finite for s in steps)


def summarize(steps: Sequence[Step], saves: Sequence[LogLine], last_at: float | None) -> Progress:
    """Return the progress of an attempt: first and last step, last checkpoint, step time, time since the checkpoint."""
    counted = [s for s in steps if s.number is not None and s.is_finite]
    main = [s for s in counted if s.kind == "step"] or [s for s in counted if s.kind == "epoch"] or counted
    saved = next((int(m[1]) for line in reversed(saves) if (m := SAVED_AT.search(line.body))), None)
    saved_at = next((line.at for line in reversed(saves) if line.at is not None), None)
    return Progress(
        first_iteration=_shown(main[0]) if main else None,
        last_iteration=_shown(main[-1]) if main else None,
        last_checkpoint=saved,
        last_checkpoint_line=saves[-1].number if saves else None,
        time_lost_s=last_at - saved_at if last_at is not None and saved_at is not None and last_at >= saved_at else None,
        step_time_s=step_time(main),
    )


def _shown(step: Step) -> int | None:
    return step.number // 1_000_000 if step.kind == "epoch" and step.number is not None else step.number


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
