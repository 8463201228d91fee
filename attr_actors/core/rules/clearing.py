"""Which events the run got over. Hold in mind: what a run survived is not why it ended."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attr_actors.core.evidence import Event, Evidence
from attr_actors.core.lines import LogLine
from attr_actors.core.progress import made_progress_after
from attr_actors.core.signatures.library import Role

AFTERMATH = re.compile(
    r"^\s*$|^\s*[-=*#~_+|]{3,}|^wandb:|^srun:|^slurmstepd:|^\s+\S|NCCL INFO|Warning\b|warnings\.warn|^\[[EWI]"
    r"|^[EWI]\d{4} |closing signal|exitcode|error_file|Extension modules|^Thread 0x"
    r"|^frame #|^#\d+|leaked|semaphore|\bepilog|\bsacct\b|^real\s|^user\s|^sys\s|^(?:Mon|Tue|Wed|Thu|Fri|Sat"
    r"|Sun) |[Ee]xit|[Kk]ill|[Tt]erminat|[Ss]hut(?:ting)? ?down|[Cc]lean"
)
SURVIVED_LINES = 40
"""Ordinary lines after an exception from which on its process, or the run, must have gone on."""
PROCESS_ROLES = frozenset({Role.PRIMARY, Role.GENERIC, Role.CONFIRMATION, Role.CASCADE, Role.TEARDOWN})


def progress_clears(event: Event, evidence: Evidence) -> bool:
    """A completed step after an event shows that the run went on: recovered."""
    if event.row.id.startswith("nan"):
        return made_progress_after(evidence.steps, event.index, event.line.stream, new_steps=1)
    return made_progress_after(evidence.steps, event.index, event.line.stream)


def run_went_on(event: Event, evidence: Evidence) -> bool:
    """Many ordinary lines after an exception show that somebody caught it."""
    return ordinary_lines_after(event.line, evidence) >= SURVIVED_LINES


def ordinary_lines_after(line: LogLine, evidence: Evidence) -> int:
    """Count the lines after a line that are neither failure nor farewell; lines that were not kept are ordinary."""
    known = {e.line.piece.line_number for e in evidence.events}
    inside = {more.number for t in evidence.tracebacks for more in t.more} | {t.end.number for t in evidence.tracebacks if t.end}
    count = 0
    number = line.number
    for other in evidence.lines[line.index + 1 : evidence.last]:
        count += max(0, other.number - number - 1)
        number = other.number
        is_own = not line.stream or other.stream == line.stream
        if is_own and other.number not in known and other.number not in inside and not AFTERMATH.search(other.body):
            count += 1
    return count


def standing(events: Sequence[Event], evidence: Evidence) -> list[Event]:
    """Return the events that neither a step nor the further run cleared."""
    return [e for e in events if not progress_clears(e, evidence)]
