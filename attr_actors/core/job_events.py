"""What happens to jobs (events), and what is to be done about it (effects)."""

from __future__ import annotations

from dataclasses import dataclass

from attr_actors.core.job import Job
from attr_actors.core.looking import Look
from attr_actors.models import Requester, Submission


@dataclass(frozen=True, slots=True)
class Submitted:
    """A client posted a log; ``look`` was taken for it."""

    submission: Submission
    look: Look
    at: float


@dataclass(frozen=True, slots=True)
class Looked:
    """The clock looked at a job's files."""

    path: str
    look: Look


@dataclass(frozen=True, slots=True)
class Finished:
    """A client asked for the final answer."""

    path: str
    look: Look
    at: float


@dataclass(frozen=True, slots=True)
class Analysed:
    """A file's content has its answer, or is known to have none."""

    path: str
    name: str
    content: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time went by for some jobs."""

    at: float
    paths: tuple[str, ...]


Event = Submitted | Looked | Finished | Analysed | Ticked


@dataclass(frozen=True, slots=True)
class Save:
    """Make a job durable."""

    job: Job


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a job."""

    path: str


@dataclass(frozen=True, slots=True)
class Analyse:
    """Have a complete file analysed; ``urgent``: it is the last one, and a client is about to ask."""

    path: str
    name: str
    content: tuple[int, int]
    log: str
    requester: Requester
    urgent: bool


@dataclass(frozen=True, slots=True)
class Follow:
    """Have the scanner read on in a log that is being written."""

    log: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell the operator."""

    message: str


Effect = Save | Forget | Analyse | Follow | Warn
