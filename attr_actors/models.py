"""Frozen values that cross a process, the disk or the wire. Nothing here computes an answer.

Units: sizes in bytes, durations in seconds (``_s``), instants as epoch seconds in UTC (``_at``), file times in ns.
Line numbers count newlines only and start at 1; byte offsets are of the line's first byte in the decompressed text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Value(BaseModel):
    """A frozen value; unknown fields are ignored, so that a newer writer can be read during an upgrade."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class Action(StrEnum):
    """What to do with the job. Compare the enum, never the text of ``auto_resume``."""

    RESTART = "RESTART"
    EXCLUDE = "EXCLUDE"
    STOP = "STOP"
    CONTINUE = "CONTINUE"
    UNKNOWN = "UNKNOWN"


class Category(StrEnum):
    """What failed; ``unknown`` is an honest answer."""

    USER_CODE = "user_code"
    CONFIG = "config"
    DATA = "data"
    CUDA_OOM = "cuda_oom"
    HOST_OOM = "host_oom"
    GPU_HARDWARE = "gpu_hardware"
    CUDA_RUNTIME = "cuda_runtime"
    NETWORK_NCCL = "network_nccl"
    STORAGE = "storage"
    CHECKPOINT = "checkpoint"
    SCHEDULER = "scheduler"
    DEPENDENCY_ENV = "dependency_env"
    NUMERICAL = "numerical"
    EXTERNAL_SERVICE = "external_service"
    FRAMEWORK_BUG = "framework_bug"
    NONE = "none"
    UNKNOWN = "unknown"


class JobMode(StrEnum):
    """How a job's logs are laid out."""

    PENDING = "pending"
    SINGLE = "single"
    SPLITLOG = "splitlog"


class Intent(StrEnum):
    """What the client wants from a POST."""

    TRACK_ONLY = "track_only"
    PROGRESSIVE = "progressive"
    TERMINAL = "terminal"


class Line(Value):
    """One cited line. ``text`` has colours and prefixes as in the file, cut to a bounded length."""

    line_number: int
    byte_offset: int
    text: str
    rank: int | None = None
    node: str | None = None


class Cascade(Value):
    """A group of lines that are consequences of the root. ``count`` is of lines; with ``at_least`` there may be more."""

    signature: str
    count: int
    at_least: bool = False
    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    first: Line


class Suspect(Value):
    """A node, GPU or rank that the evidence points at."""

    kind: Literal["node", "gpu", "rank"]
    name: str
    reason: str


class Progress(Value):
    """How far the judged attempt came."""

    first_iteration: int | None = None
    last_iteration: int | None = None
    last_checkpoint: int | None = None
    last_checkpoint_line: int | None = None
    time_lost_s: float | None = None
    step_time_s: float | None = None


class Attempt(Value):
    """One run of the workload inside a log, for the history."""

    wl_restart: int
    first_line: int
    last_line: int
    signature: str | None = None
    last_iteration: int | None = None


class ModelOpinion(Value):
    """What the model said, kept beside the rules' answer."""

    model: str
    prompt_version: str
    action: Action
    category: Category
    root_cause: str
    root_lines: tuple[Line, ...] = ()
    agrees: bool
    dropped_citations: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    latency_s: float = 0.0


class Attribution(Value):
    """The answer for one workload cycle."""

    action: Action
    category: Category
    signature: str | None = None
    owner: str = "unknown"
    rule: str
    root_cause: str
    root_lines: tuple[Line, ...] = ()
    evidence: tuple[Line, ...] = ()
    cascade: tuple[Cascade, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    progress: Progress = Progress()
    attempts: tuple[Attempt, ...] = ()
    fingerprint: str | None = None
    confidence: float = 0.0
    coverage: Literal["full", "partial"] = "full"
    coverage_note: str | None = None
    source: Literal["rules", "model"] = "rules"
    rules_action: Action | None = None
    opinion: ModelOpinion | None = None
    degraded: str | None = None


class Snapshot(Value):
    """The identity of a file's content as seen by one analysis."""

    path: str
    size: int
    mtime_ns: int


class Analysis(Value):
    """The answers of one log file: one attribution per workload cycle, in the file's order."""

    snapshot: Snapshot
    engine: str
    cycles: tuple[Attribution, ...]
    result_id: str
    analysed_at: float
    scan_s: float = 0.0
    log_bytes: int = 0
    joined: bool = Field(False, exclude=True)
    """Whether this copy was handed to a caller that joined a flight of another; never stored."""

    @property
    def degraded(self) -> str | None:
        """Return why the answer should be refreshed, or None."""
        return next((c.degraded for c in self.cycles if c.degraded), None)


class Submission(Value):
    """A POST /logs after ``admit()``; ``path`` is resolved and inside the root."""

    path: str
    user: str = "unknown"
    job_id: str | None = None
    cycle_id: int | None = None
    intent: Intent = Intent.TRACK_ONLY


class JobView(Value):
    """A tracked job as /jobs and POST /logs show it."""

    path: str
    user: str
    job_id: str | None
    cycle_id: int | None = None
    mode: JobMode
    created_at: float
    terminated: bool = False
    sched_restarts: int = 0
    logs_dir: str | None = None
    log_files: tuple[str, ...] = ()
    files_analyzed: int = 0


class Requester(Value):
    """For whom an analysis is made: what the records and alerts name."""

    user: str = "unknown"
    job_id: str | None = None
    cycle_id: int | None = None


class Flight(Value):
    """One analysis under way."""

    path: str
    started_at: float
    elapsed_s: float
    waiters: int


class Health(Value):
    """What every actor answers to ``health()``."""

    name: str
    version: str
    fingerprint: str
    pid: int
    started_at: float
    issues: tuple[str, ...] = ()
    failing: bool = False


class EngineConfig(Value):
    """What the engine may spend and where it finds more signatures; part of its fingerprint."""

    evidence_bytes_max: int = 24_000
    signatures_dir: str = ""
    scan_backend: Literal["auto", "hyperscan", "re2"] = "auto"
    scan_bytes_max: int = 256 << 30
    signatures_cache_dir: str = ""


class Stats(Value):
    """Counters and gauges of one actor, by dotted name."""

    counts: dict[str, float] = {}


class JobsPage(Value):
    """One page of tracked jobs, newest first, with the totals per mode over all jobs."""

    total_counts: dict[JobMode, int]
    jobs: tuple[JobView, ...]


class AnalyzeRequest(Value):
    """Ask an analyzer for the answer of one admitted log file. ``background`` yields to requests with a waiter."""

    path: str
    requester: Requester = Requester()
    background: bool = False


class Peek(Value):
    """What is known of a path without starting work."""

    status: Literal["completed", "in_flight", "pending"]
    analysis: Analysis | None = None
    candidate: Attribution | None = None


class Recording(Value):
    """An analysis to make durable, with the names that its records and alerts carry."""

    analysis: Analysis
    requester: Requester = Requester()


class Entry(Value):
    """One workload cycle's attribution as the ledger keeps it and as a sink receives it."""

    snapshot: Snapshot
    engine: str
    wl_restart: int
    cycles: int
    result_id: str
    analysed_at: float
    scan_s: float = 0.0
    log_bytes: int = 0
    requester: Requester = Requester()
    attribution: Attribution


class Delivery(Value):
    """One entry leased for one sink. ``attempts`` counts this one; ``receipt`` is the sink's own for an earlier message of the topic."""

    delivery_id: int
    sink: str
    attempts: int
    entry: Entry
    receipt: str | None = None


class Outcome(Value):
    """What became of a delivery: done (with the sink's receipt), to be tried again after a delay, or parked for an operator."""

    delivery_id: int
    state: Literal["done", "retry", "parked"]
    reason: str = ""
    delay_s: float | None = None
    receipt: str | None = None


class Holding(Value):
    """What one replica was granted of a client's limit in the window that ends at ``ends_at``."""

    rate: str
    client: str
    granted: int
    ends_at: float


class Lease(Value):
    """A batch of requests granted to one replica. ``incarnation`` names the limiter process that counted it."""

    granted: int
    remaining: int
    ends_at: float
    incarnation: str


class Figures(Value):
    """What one replica did since it started, by dotted name. Counters only grow; gauges are of the moment."""

    source: str
    counts: dict[str, float] = {}
    gauges: dict[str, float] = {}


class Permit(Value):
    """Whether a second opinion may be asked for now. ``busy``: it is only a matter of waiting for a free slot."""

    granted: bool
    busy: bool = False
    reason: str = ""
    retry_after_s: float = 0.0


class ModelOutcome(Value):
    """What became of a permit: an answer, an unusable one, a failure of the endpoint, or nothing (nobody waits any more)."""

    result: Literal["answered", "unusable", "failed", "abandoned"]
    tokens: int = 0
    cost_usd: float = 0.0
    latency_s: float = 0.0
    calls: int = 0
    retry_after_s: float | None = None


class StoredReply(Value):
    """A model's reply as it came, kept under a hash of everything that it was asked: the same is not asked twice."""

    key: str
    model: str
    reply: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    latency_s: float
    stored_at: float
