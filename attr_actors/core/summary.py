"""Many answers on one screen: what happened, where, to whom, and what happened more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from attr_actors.core.rendering import named_nodes, one_line
from attr_actors.core.result_rows import ResultRow
from attr_actors.models import Action

CAUSE_CHARS_MAX = 200
TOP = 10
NOTED_MAX = 2_000
"""Failed logs that are named one by one in a report; more than anybody reads."""


class Digest(NamedTuple):
    """What a summary needs of a row."""

    log_path: str
    error_code: str | None = None
    error: str = ""
    action: str = ""
    category: str = ""
    cause_key: str = ""
    cause: str = ""
    line_number: int | None = None
    nodes: tuple[str, ...] = ()
    user: str = "unknown"
    job: str = ""
    reused: bool = False
    log_bytes: int = 0
    degraded: bool = False


def digest(row: ResultRow) -> Digest:
    """Return what a summary needs of a row."""
    user, job = row.user or "unknown", row.job_id or row.log_path
    answer = row.attribution
    if answer is None:
        return Digest(row.log_path, row.error_code, one_line(row.error or "", CAUSE_CHARS_MAX), user=user, job=job)
    return Digest(
        log_path=row.log_path,
        action=answer.action.value,
        category=answer.category.value,
        cause_key=answer.fingerprint or answer.signature or answer.category.value,
        cause=one_line(answer.root_cause, CAUSE_CHARS_MAX),
        line_number=answer.root_lines[0].line_number if answer.root_lines else None,
        nodes=tuple(named_nodes(answer)),
        user=user,
        job=job,
        reused=row.reused,
        log_bytes=row.log_bytes,
        degraded=answer.degraded is not None,
    )


@dataclass
class Cause:
    """One cause and the jobs that it ended."""

    text: str
    example: str
    logs: int = 0
    jobs: set[str] = field(default_factory=set)


@dataclass
class Summary:
    """Counts over digests, added one by one."""

    logs: int = 0
    reused: int = 0
    degraded: int = 0
    log_bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)
    nodes: dict[str, set[str]] = field(default_factory=dict)
    causes: dict[str, Cause] = field(default_factory=dict)
    noted: list[Digest] = field(default_factory=list)

    def add(self, seen: Digest) -> None:
        """Count one log."""
        self.logs += 1
        self.reused += seen.reused
        self.degraded += seen.degraded
        self.log_bytes += seen.log_bytes
        failed = seen.error_code is not None or seen.action != Action.CONTINUE
        if failed and len(self.noted) < NOTED_MAX:
            self.noted.append(seen)
        if seen.error_code is not None:
            self.faults[seen.error_code] += 1
            return
        self.actions[seen.action] += 1
        self.categories[seen.category] += 1
        if failed:
            self._add_failure(seen)

    def _add_failure(self, seen: Digest) -> None:
        self.users[seen.user] += 1
        for node in seen.nodes:
            self.nodes.setdefault(node, set()).add(seen.job)
        cause = self.causes.setdefault(seen.cause_key, Cause(seen.cause, seen.log_path))
        cause.logs += 1
        cause.jobs.add(seen.job)

    @property
    def answered(self) -> int:
        """Return the number of logs with an answer."""
        return self.logs - self.faults.total()

    def repeated_causes(self) -> list[Cause]:
        """Return the causes that ended most logs, if more than one."""
        return sorted((c for c in self.causes.values() if c.logs > 1), key=lambda c: (-c.logs, c.text))[:TOP]

    def repeated_suspects(self) -> list[tuple[str, int]]:
        """Return the nodes that several jobs name, with the number of jobs."""
        several = [(node, len(jobs)) for node, jobs in self.nodes.items() if len(jobs) > 1]
        return sorted(several, key=lambda item: (-item[1], item[0]))[:TOP]


def render_summary(summary: Summary) -> str:
    """Return the summary for a person."""
    return "\n".join(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    failed = f", {summary.faults.total()} could not be analysed" if summary.faults else ""
    yield f"{summary.logs} logs: {summary.answered} attributed ({summary.reused} known from before){failed}"
    if summary.degraded:
        yield f"{summary.degraded} answers are the rules' alone: the model gave none (degraded in their rows); --model asks again"
    for title, counts in (
        ("action", summary.actions),
        ("category", summary.categories),
        ("user", summary.users),
        ("fault", summary.faults),
    ):
        if counts:
            yield f"by {title:9} {', '.join(f'{name} {number}' for name, number in counts.most_common(TOP))}"
    if summary.nodes:
        most = sorted(summary.nodes.items(), key=lambda item: (-len(item[1]), item[0]))[:TOP]
        yield f"by {'node':9} {', '.join(f'{node} {len(jobs)}' for node, jobs in most)}"
    for cause in summary.repeated_causes():
        yield f"{cause.logs:>6} x {cause.text}  (for example {cause.example})"
    for node, jobs in summary.repeated_suspects():
        yield f"suspect: {node}, named by {jobs} jobs"


def summary_values(summary: Summary) -> dict[str, Any]:
    """Return the summary for programs."""
    return {
        "logs": summary.logs,
        "attributed": summary.answered,
        "reused": summary.reused,
        "degraded": summary.degraded,
        "log_bytes": summary.log_bytes,
        "faults": dict(summary.faults),
        "actions": dict(summary.actions),
        "categories": dict(summary.categories),
        "users": dict(summary.users),
        "nodes": {node: len(jobs) for node, jobs in summary.nodes.items()},
        "causes": [{"cause": c.text, "logs": c.logs, "jobs": len(c.jobs), "example": c.example} for c in summary.repeated_causes()],
        "suspects": dict(summary.repeated_suspects()),
    }
