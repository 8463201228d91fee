"""What an AI assistant can ask: five tools over the same flows, path rules and limits as the HTTP routes. Knows no transport.

Hold in mind: log text is a stranger's text. Results are bounded in size, control characters are gone, and nothing that
a log says is an instruction to whoever reads the result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from attr_actors.core.reading import Excerpt, read_window, search_log
from attr_actors.core.terminal import plain, shorten
from attr_actors.errors import Forbidden, InvalidParameter
from attr_actors.models import Attribution, JobMode, Line
from serve_app.bodies import JobBody, ResultReply
from serve_app.service import AttributionService, ResultQuery

EVIDENCE_MAX = 20
CASCADES_MAX = 10
TEXT_CHARS_MAX = 500
FILES_SHOWN_MAX = 20
JOBS_MAX = 100
WAIT_S_MAX = 50.0
"""Assistants give a tool about a minute; the analysis goes on without them, and get_attribution finds it."""


class Answer(BaseModel):
    """Why a job died."""

    log_path: str
    status: Literal["completed", "in_flight", "pending"]
    action: str | None = None
    reason: str | None = None
    exclude_nodes: list[str] = []
    attribution: Attribution | None = None
    note: str | None = None


class JobList(BaseModel):
    """One page of tracked jobs, newest first."""

    total_counts: dict[JobMode, int]
    jobs: list[JobBody]


class Tools:
    """The tools. ``root`` confines a caller whose key has a root of its own."""

    def __init__(self, service: AttributionService) -> None:
        self._service = service

    async def analyze_log(self, log_path: str, root: str | None, wait_s: float) -> Answer:
        """Analyse a log and wait for the answer."""
        if not 0 < wait_s <= WAIT_S_MAX:
            raise InvalidParameter(f"wait_s must be above 0 and at most {WAIT_S_MAX:g}")
        log = await self._service.admit(log_path, root)
        return render_answer(log.path, await self._service.result(ResultQuery(log.path, timeout_s=wait_s, root=root)))

    async def get_attribution(self, log_path: str, root: str | None, file: str | None, wl_restart: int | None) -> Answer:
        """Return what is known, starting nothing."""
        log = await self._service.admit(log_path, root)
        return render_answer(log.path, await self._service.result(ResultQuery(log.path, wl_restart, wait=False, file=file, root=root)))

    async def list_jobs(self, root: str | None, mode: JobMode | None, limit: int, offset: int) -> JobList:
        """Return one page of jobs; not for a caller with a root of its own, because it shows everybody's."""
        if root is not None:
            raise Forbidden("this key is confined to a directory and cannot list everybody's jobs")
        if not 1 <= limit <= JOBS_MAX or offset < 0:
            raise InvalidParameter(f"limit must be 1 to {JOBS_MAX} and offset at least 0")
        page = await self._service.jobs(mode, limit, offset)
        jobs = [job.model_copy(update={"log_files": job.log_files[-FILES_SHOWN_MAX:]}) for job in page.jobs]
        return JobList(total_counts=page.total_counts, jobs=jobs)

    async def search_log(
        self, log_path: str, root: str | None, pattern: str, first_line: int, matches_max: int, ignore_case: bool
    ) -> Excerpt:
        """Return matching lines."""
        return await self._service.read(
            log_path, root, lambda log, deadline: search_log(log, pattern, first_line, matches_max, ignore_case, deadline)
        )

    async def read_log_window(self, log_path: str, root: str | None, first_line: int, count: int) -> Excerpt:
        """Return lines by number."""
        return await self._service.read(log_path, root, lambda log, deadline: read_window(log, first_line, count, deadline))


def render_answer(log_path: str, reply: ResultReply) -> Answer:
    """Return a reply of GET /logs in a bounded size."""
    decision = reply.recommendation or reply.candidate_recommendation
    return Answer(
        log_path=reply.log_file or log_path,
        status=reply.status,
        action=decision.action if decision else None,
        reason=_text(decision.reason) if decision else None,
        exclude_nodes=decision.exclude_nodes if decision else [],
        attribution=bounded(reply.attribution) if reply.attribution else None,
        note=reply.result.error or reply.degraded,
    )


def bounded(found: Attribution) -> Attribution:
    """Return the answer with fewer and shorter lines; what is left out is in GET /logs and in the log itself."""
    return found.model_copy(
        update={
            "root_cause": _text(found.root_cause),
            "root_lines": tuple(map(_line, found.root_lines)),
            "evidence": tuple(map(_line, found.evidence[:EVIDENCE_MAX])),
            "cascade": tuple(
                group.model_copy(update={"first": _line(group.first), "ranks": group.ranks[:FILES_SHOWN_MAX]})
                for group in found.cascade[:CASCADES_MAX]
            ),
            "attempts": found.attempts[-CASCADES_MAX:],
        }
    )


def _line(line: Line) -> Line:
    return line.model_copy(update={"text": _text(line.text)})


def _text(text: str) -> str:
    return shorten(plain(text), TEXT_CHARS_MAX)
