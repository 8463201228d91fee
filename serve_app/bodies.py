"""HTTP request and response bodies: the published contract. Key order is part of it: old monitors print what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from attr_actors.errors import InvalidParameter
from attr_actors.models import Analysis, Attribution, Flight, Intent, JobMode, JobView

BODY_BYTES_MAX = 1_048_576
"""A request is a path and a few short fields, or a message of the tool protocol; a replica must not be filled with more."""


NAME_CHARACTERS_MAX = 256


Name = Annotated[str, Field(max_length=NAME_CHARACTERS_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What could be stored, and does not forge lines where it is shown: valid UTF-8 without control characters."""


class SubmitBody(BaseModel):
    """The body of POST /logs; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    log_path: str = Field(description="Absolute path of the log inside the allowed root.")
    user: Name = "unknown"
    job_id: Name | None = None
    cycle_id: Annotated[int, Field(strict=True)] | None = None  # Else ``true`` would be 1, which the schema does not say.
    analysis_intent: Intent = Intent.TRACK_ONLY

    @classmethod
    def of(cls, **fields: Any) -> SubmitBody:
        """Return the body of these fields. Raises InvalidParameter, which a caller in Python expects."""
        try:
            return cls(**fields)
        except ValidationError as exc:
            told = exc.errors()[0]
            raise InvalidParameter(f"{'.'.join(map(str, told['loc']))}: {told['msg']}") from None


class SubmitReply(BaseModel):
    """The reply of POST /logs."""

    submitted: bool = True
    normalized_path: str
    mode: JobMode
    logs_dir: str | None = None
    sched_restarts: int = 0
    files_analyzed: int = 0


class CycleInfo(BaseModel):
    """The machine-readable half of one item of ``result.result``. We send all of it; the predecessor sent less, and clients read both."""

    auto_resume: str = ""
    auto_resume_explanation: str = ""
    attribution: str = ""
    checkpoint_saved: bool = False
    action: str = "UNKNOWN"
    category: str = "unknown"
    signature: str | None = None
    confidence: float = 0.0


class ResultBody(BaseModel):
    """What monitors read: one ``[text, info]`` pair per workload cycle."""

    module: str = "log_analyzer"
    state: Literal["complete", "timeout", "pending", "in_flight", "error"]
    result_id: str | None = None
    result: list[tuple[str, CycleInfo]] = []
    error: str | None = None


class Recommendation(BaseModel):
    """The decision in the predecessor's five words; EXCLUDE is RESTART with ``exclude_nodes``."""

    action: Literal["STOP", "RESTART", "CONTINUE", "UNKNOWN", "TIMEOUT"]
    source: str
    reason: str
    exclude_nodes: list[str] = []


class ResultReply(BaseModel):
    """The reply of GET /logs. Keys from ``sched_restarts`` on are left out where they do not apply."""

    result: ResultBody
    status: Literal["completed", "in_flight", "pending"]
    wl_restart: int = 0
    wl_restart_count: int = 0
    mode: JobMode = JobMode.SINGLE
    sched_restarts: int | None = None
    log_file: str | None = None
    recommendation: Recommendation | None = None
    candidate_recommendation: Recommendation | None = None
    attribution: Attribution | None = None
    degraded: str | None = None
    files: list[ResultReply] | None = None
    basis: Analysis | None = Field(None, exclude=True, description="What the reply stands on, if nothing but this log decides it.")
    joined: bool = Field(False, exclude=True, description="The answer came from a flight that was under way when it was asked for.")

    @model_serializer(mode="wrap")
    def _leave_out_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        shown: dict[str, Any] = handler(self)
        return {key: value for key, value in shown.items() if value is not None}


class ErrorBody(BaseModel):
    """Every error of every route."""

    error_code: str
    message: str
    details: Any = None


class HealthReply(BaseModel):
    """The reply of GET /healthz."""

    status: Literal["ok", "degraded", "fail"]
    issues: list[str] = []


class JobBody(BaseModel):
    """One job in GET /jobs."""

    job_id: str | None
    log_path: str
    path: str
    user: str
    mode: JobMode
    created_at: float
    terminated: bool
    sched_restarts: int
    logs_dir: str | None
    log_files: list[str]
    files_count: int
    files_analyzed: int

    @classmethod
    def of(cls, job: JobView) -> JobBody:
        """Show a tracked job."""
        shared = job.model_dump(include=set(cls.model_fields) & set(JobView.model_fields))
        return cls(log_path=job.path, files_count=len(job.log_files), **shared)


class JobGroup(BaseModel):
    """The predecessor's grouping of the same page by mode."""

    count: int
    jobs: list[JobBody]


class JobsReply(BaseModel):
    """The reply of GET /jobs."""

    total_counts: dict[JobMode, int]
    filter: dict[str, str | int]
    returned: int
    jobs: list[JobBody]
    pending: JobGroup
    single: JobGroup
    splitlog: JobGroup


class FlightBody(BaseModel):
    """One analysis in GET /inflight."""

    path: str
    started_at: float
    elapsed_seconds: float
    waiters: int

    @classmethod
    def of(cls, flight: Flight) -> FlightBody:
        """Show a flight."""
        return cls(path=flight.path, started_at=flight.started_at, elapsed_seconds=round(flight.elapsed_s, 3), waiters=flight.waiters)


class InflightReply(BaseModel):
    """The reply of GET /inflight."""

    count: int
    paths: list[str]
    entries: list[FlightBody]
