"""What ``squeue``, ``sacct`` and ``scontrol show job`` print -> jobs. Checked against Slurm 22.05.

Hold in mind: users choose job names, comments and submit lines, and Slurm lets these hold newlines. So rows are split at
a delimiter that the caller makes up for each call, never at a newline, and a record of ``scontrol`` (which cannot be
delimited) is asked for one job at a time, so that its owner can only mislead about that job. All commands are run with
``SLURM_TIME_FORMAT=%s``, so that instants are epoch seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

SQUEUE_FIELDS = ("%A", "%i", "%T", "%P", "%u", "%N", "%S", "%e", "%Z", "%j")
SACCT_FIELDS = (
    "JobIDRaw",
    "JobID",
    "State",
    "Partition",
    "User",
    "NodeList",
    "Start",
    "End",
    "WorkDir",
    "JobName",
    "ExitCode",
    "SubmitLine",
)
"""What is asked: the same ten fields in the same order, and what only accounting knows."""

ENDED = frozenset(
    ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"]
)
RUNNING = frozenset(["RUNNING", "SUSPENDED", "COMPLETING", "SIGNALING", "STOPPED", "RESIZING", "STAGE_OUT"])

SHOWN_ID = re.compile(r"\d+(?:_\d+)?(?:\+0)?$")
"""A job, an array task, or the leader of a heterogeneous job, whose script writes the log; a waiting array is none."""

INTERACTIVE = re.compile(r"\S*(?:srun|salloc)(?:\s|$)")


class Phase(StrEnum):
    """Where a job is in its life, as far as its log is concerned."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class SlurmJob:
    """One job, array task or heterogeneous job at one moment. ``job_id`` is what people type (``12``, ``12_3``)."""

    raw_id: int
    job_id: str
    state: str
    phase: Phase
    partition: str
    user: str
    node: str
    started_at: float | None
    ended_at: float | None
    work_dir: str
    name: str
    exit_code: str = ""
    submit_line: str = ""
    log_path: str | None = None

    @property
    def ran(self) -> bool:
        """Tell whether the job was ever given a node; one that was not has no log."""
        return bool(self.node)

    @property
    def interactive(self) -> bool:
        """Tell whether accounting says that there was no batch script."""
        return bool(INTERACTIVE.match(self.submit_line))


def phase_of(state: str) -> Phase:
    """Return the phase of a state as the commands print it (``CANCELLED by 1000``, ``FAILED,COMPLETING``)."""
    words = set(re.split(r"[\s,+]", state))
    if words & RUNNING:
        return Phase.RUNNING
    return Phase.ENDED if words & ENDED else Phase.WAITING


def parse_squeue(text: str, delimiter: str) -> list[SlurmJob]:
    """Return the jobs of ``squeue --format`` with SQUEUE_FIELDS, each field followed by the delimiter."""
    rows = _rows(text, delimiter, len(SQUEUE_FIELDS))
    return [job for row in rows if (job := _parse_row(row))]


def parse_sacct(text: str, delimiter: str) -> list[SlurmJob]:
    """Return the jobs of ``sacct --parsable --noheader`` with SACCT_FIELDS."""
    return _accounted(_rows(text, delimiter, len(SACCT_FIELDS)))


def parse_sacct_with_output(text: str, delimiter: str) -> list[SlurmJob]:
    """Return the same where sacct was asked for ``StdOut`` as well (Slurm 24.05 and later)."""
    return _accounted(_rows(text, delimiter, len(SACCT_FIELDS) + 1))


def _accounted(rows: Iterator[list[str]]) -> list[SlurmJob]:
    jobs = []
    for row in rows:
        job = _parse_row(row)
        if job:
            jobs.append(replace(job, exit_code=row[10], submit_line=row[11], log_path=next(iter(row[12:]), "") or None))
    return jobs


def _rows(text: str, delimiter: str, width: int) -> Iterator[list[str]]:
    """Yield the fields of each row; the newline that ends a row stands before the first field of the next."""
    fields = text.split(delimiter)[:-1]
    for start in range(0, len(fields) - width + 1, width):
        row = fields[start : start + width]
        yield [row[0].removeprefix("\n"), *row[1:]]


def _parse_row(row: list[str]) -> SlurmJob | None:
    raw, shown, state, partition, user, nodes, started, ended, work_dir, name = row[:10]
    if not raw.isascii() or not raw.isdigit() or not SHOWN_ID.match(shown):
        return None
    return SlurmJob(
        raw_id=int(raw),
        job_id=shown.removesuffix("+0"),
        state=state.partition(" ")[0],
        phase=phase_of(state),
        partition=partition,
        user=user or "unknown",
        node="" if nodes == "None assigned" else nodes,
        started_at=_instant(started),
        ended_at=_instant(ended) if phase_of(state) is Phase.ENDED else None,
        work_dir=work_dir,
        name=name,
    )


def _instant(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None


def parse_output(record: str) -> str | None:
    """Return StdOut of the first job in ``scontrol show job ID``; None if it has none, as interactive jobs.

    The last such line counts: Slurm writes its own after the comment, which may hold anything.
    """
    first = re.split(r"\n\s*\n(?=JobId=)", record)[0]
    values = re.findall(r"^   StdOut=(.*)$", first, re.MULTILINE)
    return values[-1] if values else None


def first_node(node_list: str) -> str:
    """Return the first host of a compressed host list: ``gpu[003-010,12],cpu1`` -> ``gpu003``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", node_list)
    return match[1] + (match[2] or "") if match else ""
