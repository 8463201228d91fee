"""The one Settings: every limit with its unit and the reason for its default.

Order of precedence: arguments (Serve YAML ``args:``) > environment > ``.env`` > default. Names follow the predecessor:
``NVRX_ATTRSVC_<FIELD>``; a few keep the bare names that their owners publish (``NVIDIA_API_KEY``, ``SLACK_BOT_TOKEN``, ...).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from attr_actors.errors import BadSettings
from attr_actors.models import EngineConfig

PREFIX = "NVRX_ATTRSVC_"
RATE = re.compile(r"^\s*[1-9]\d*\s*(?:/|per)\s*(?:\d+\s*)?(?:second|minute|hour|day)s?\s*$", re.IGNORECASE)


def _bare(name: str, *others: str) -> AliasChoices:
    """Accept a variable without the prefix (and other spellings of it)."""
    return AliasChoices(name, name.lower(), *others)


def _known_level(value: str) -> str:
    if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
        raise ValueError(f"'{value}' is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return value.upper()


LogLevel = Annotated[str, AfterValidator(_known_level)]


class Settings(BaseSettings):
    """All settings of the service. ``Settings.load()`` turns faults into one clear message each."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", populate_by_name=True, frozen=True, hide_input_in_errors=True
    )

    # Where logs may be, and where the service listens.
    allowed_root: str = Field(description="Directory that every log path must lie in, after links are resolved.")
    host: str = Field("127.0.0.1", description="Address to listen on; loopback by default.")
    port: int = Field(8000, ge=1, le=65535, description="TCP port of the HTTP endpoint.")
    fast_api_root_path: str = Field("", description="Path prefix that a reverse proxy strips.")
    log_level_name: LogLevel = Field(
        "INFO",
        description="Level of the service's own log.",
        validation_alias=AliasChoices(PREFIX + "LOG_LEVEL_NAME", PREFIX + "LOG_LEVEL"),
    )
    cluster_name: str = Field("", description="Name of the training cluster in records and alerts.")

    # Who may ask, and what a replica answers from memory.
    api_keys_file: str = Field("", description="File of API keys (nvrx-attrsvc keys new); empty: no key is asked for.")
    allow_anonymous: bool = Field(False, description="Listen beyond loopback although no API keys are asked for.")
    trusted_proxies: str = Field(
        "", description="Networks of reverse proxies, separated by commas, whose X-Forwarded-For names the client."
    )
    answer_cache_bytes_max: int = Field(64 * 2**20, ge=0, description="Replies that one replica keeps in memory, bytes; 0: none.")
    answer_cache_age_max_s: float = Field(
        30, ge=0, description="A kept reply is asked for again after this, s: the longest that a replica may lag behind the ledger."
    )

    # Ledger.
    cache_file: str = Field("", description="The ledger's database file; empty: attr-actors/ledger.db in the user's state directory.")
    cache_grace_period_seconds: float = Field(600, ge=0, description="An answer younger than this is served without a stat of its log, s.")
    entry_age_max_s: float = Field(14 * 86400, gt=0, description="Answers whose log is older than this are evicted, s.")
    ledger_lock_wait_s: float = Field(10, ge=0, description="How long a starting ledger waits for the one before it to be gone, s.")
    ledger_take_over: bool = Field(
        False, description="Ask a service that has the ledger to hand it over; for a new cluster that replaces an old one."
    )

    # Rate limits, per client and shared by all replicas: "N/second|minute|hour|day".
    rate_limit_submit: str = Field("1200/minute", description="POST /logs.")
    rate_limit_analyze: str = Field("60/minute", description="GET /logs.")
    rate_limit_preview: str = Field("120/minute", description="GET /print.")

    # Analysis.
    compute_timeout: float = Field(300, gt=0, description="Longest wait of a GET for an answer, s; the flight goes on.")
    analyzers: int = Field(2, ge=1, le=1024, description="Number of analyzer actors; a path always goes to the same one.")
    flights_max: int = Field(256, ge=1, description="Analyses under way or queued per analyzer; more are refused with 503.")
    scan_threads: int = Field(2, ge=1, description="Logs that one analyzer reads at a time.")
    evidence_bytes_max: int = Field(24_000, ge=2_000, description="Evidence kept per answer, bytes (about 8k tokens).")
    scan_backend: Literal["auto", "hyperscan", "re2"] = Field("auto", description="Pattern matcher; auto: hyperscan where it can be had.")
    signatures_dir: str = Field("", description="Directory with an operator's own signature rows.")
    signatures_cache_dir: str = Field(
        "", description="Where compiled signatures are cached; empty: attr-actors in the user's cache directory."
    )
    scan_bytes_max: int = Field(256 << 30, ge=1, description="Text read of one log, decompressed, bytes; an answer beyond it is partial.")

    file_threads: int = Field(16, ge=1, description="Quick looks at files that one replica takes at a time and mount.")
    file_timeout_s: float = Field(10, gt=0, description="Longest wait for the file system in a quick request, s; then 503.")

    waiting_requests_max: int = Field(2000, ge=1, description="Requests for answers not at hand that one replica holds; more get 503.")

    # Jobs.
    max_jobs: int = Field(100_000, ge=1, description="Tracked jobs; more are refused with 503 job_limit_reached.")
    poll_interval_s: float = Field(300, gt=0, description="Time between two looks at the tracked files, s; jittered by 10 %.")
    pending_age_max_s: float = Field(7 * 86400, gt=0, description="A pending job older than this is forgotten, s.")
    terminated_age_max_s: float = Field(3600, gt=0, description="A terminated job is forgotten after this, s.")
    job_age_max_s: float = Field(180 * 86400, gt=0, description="Any job older than this is forgotten, s.")
    pending_bytes: int = Field(4096, ge=1, description="A log with a job_id and fewer bytes is pending: too early to tell its layout.")
    followed_max: int = Field(64, ge=0, description="Growing logs that one analyzer follows for progressive jobs (about 0.5 MB each).")
    marker_head_bytes: int = Field(
        2**20, ge=4096, le=2**26, description="A log without START PATHS in its first bytes has none and is not read on."
    )
    logs_dir_files_max: int = Field(1000, ge=1, description="Log files kept per splitlog job, the last ones in order.")
    tracker_threads: int = Field(8, ge=1, description="Logs that the tracker looks at in parallel; shared file systems wait.")
    background_analyses_max: int = Field(8, ge=1, description="Completed logs that the tracker has analysed at a time.")

    # Model.
    llm_model: str = Field("nvidia/llama-3.3-nemotron-super-49b-v1", description="Model name at the endpoint.")
    llm_base_url: str = Field("https://integrate.api.nvidia.com/v1", description="OpenAI-compatible endpoint.")
    llm_temperature: float = Field(0.0, ge=0, le=2)
    llm_top_p: float = Field(1.0, gt=0, le=1)
    llm_max_tokens: int = Field(8192, ge=1, description="Longest reply, tokens.")
    nvidia_api_key: SecretStr | None = Field(None, validation_alias=_bare("NVIDIA_API_KEY"))
    nvidia_api_key_file: str = Field("", validation_alias=_bare("NVIDIA_API_KEY_FILE"))
    llm_api_key: SecretStr | None = Field(None, validation_alias=_bare("LLM_API_KEY"), description="Key of another endpoint.")
    llm_api_key_file: str = Field("", validation_alias=_bare("LLM_API_KEY_FILE"), description="File that holds such a key.")
    llm_fallback_models: str = Field("", description="Models to ask in turn when the first one fails, separated by commas.")
    llm_prompt_tokens_max: int = Field(8000, ge=2000, description="Longest prompt, tokens: more evidence adds cost before it adds insight.")
    llm_context_tokens: int = Field(131_072, ge=2048, description="The model's context, tokens; prompt and reply share it.")
    llm_call_timeout_s: float = Field(60, gt=0, description="Longest model call, s: a 49B model writes an answer in 5 to 30 s.")
    llm_deadline_s: float = Field(120, gt=0, description="Longest second opinion with all its calls, s; then the rules answer alone.")
    llm_retries_max: int = Field(2, ge=0, le=10, description="Repeats of a call after 408, 429, 5xx or a lost connection.")
    llm_lookups_max: int = Field(0, ge=0, le=3, description="Rounds in which the model may ask to see more lines; 0: one call per answer.")
    llm_redaction: Literal["off", "secrets", "strict"] = Field(
        "secrets", description="What leaves the cluster masked: nothing; credentials; also users, hosts, addresses and paths."
    )
    llm_calls_per_analyzer: int = Field(4, ge=1, description="Second opinions under way in one analyzer.")
    llm_calls_max: int = Field(8, ge=1, description="Second opinions under way in the whole service: what the endpoint stands.")
    llm_tokens_per_day: int = Field(20_000_000, ge=0, description="Tokens per UTC day, after which the rules answer alone; 0: no limit.")
    llm_breaker_failures: int = Field(5, ge=1, description="Failures in a row after which the endpoint is left alone.")
    llm_breaker_open_s: float = Field(30, gt=0, description="How long it is left alone at first, s; doubles up to 10 times that.")
    llm_wait_s: float = Field(0, ge=0, description="Longest wait of a request for the model once the rules have answered, s; 0: none.")
    health_window_s: float = Field(60, gt=0, description="/healthz judges failures of the model and the sinks within so many seconds.")
    llm_prices: dict[str, tuple[float, float]] = Field(
        {}, description='USD per million tokens in and out, per model: {"name": [0.9, 0.9]}; a model without a row costs 0.'
    )

    # Sinks.
    dataflow_index: str = Field("", description="Elasticsearch index for records; empty: no records.")
    slack_bot_token: SecretStr | None = Field(None, validation_alias=_bare("SLACK_BOT_TOKEN"))
    slack_channel: str = Field("", validation_alias=_bare("SLACK_CHANNEL"))
    slack_email_domain: str = Field("", validation_alias=_bare("SLACK_EMAIL_DOMAIN", PREFIX + "SLACK_EMAIL_DOMAIN"))
    slack_base_url: str = Field("https://slack.com/api/", description="Slack's Web API; another one behind a gateway or in tests.")
    elasticsearch_url: str = Field(
        "http://127.0.0.1:9200", repr=False, description="Elasticsearch 8.x or 9.x, used when DATAFLOW_INDEX is set."
    )
    elasticsearch_api_key: SecretStr | None = Field(None, description="Encoded API key; wins over user and password.")
    elasticsearch_user: str = Field("", description="User for basic authentication.")
    elasticsearch_password: SecretStr | None = Field(None, description="Password for basic authentication.")
    elasticsearch_ca_file: str = Field("", description="PEM file of the authority that signed the cluster's certificate.")
    export_url: str = Field("", repr=False, description="Webhook: each record is sent there as JSON by POST; empty: no webhook.")
    export_secret: SecretStr | None = Field(None, description="Key of the webhook's HMAC-SHA256 signature.")
    export_sinks: str = Field("", description="Names of own sinks, separated by commas: entry points of the group attr_actors.sinks.")
    sink_timeout_s: float = Field(30, gt=0, description="Longest wait for one reply of a sink, s.")
    outbox_lease_s: float = Field(120, gt=0, description="A delivery not settled in this time is due again, s; above three sink timeouts.")
    drain_timeout_s: float = Field(5, ge=0, description="Longest last effort of a sink when the service stops, s; the rest waits.")
    outbox_poll_interval_s: float = Field(1, gt=0, description="Time between two looks for due deliveries, s.")
    outbox_backoff_max_s: float = Field(300, gt=0, description="Longest pause between two attempts, s.")
    outbox_attempts_max: int = Field(
        1000, ge=1, description="Failed attempts before a delivery is parked; at the longest pause over three days."
    )
    outbox_keep_max_s: float = Field(30 * 86400, gt=0, description="A delivery older than this is dropped and counted, parked or not, s.")

    # Traces.
    ray_metrics: bool = Field(
        False, description="Show the figures of /metrics among Ray's own too; costs cached answers a tenth of their rate."
    )
    traces_url: str = Field(
        "", repr=False, description="OTLP/HTTP endpoint of a trace collector, such as http://collector:4318/v1/traces; empty: no traces."
    )
    traces_sample_ratio: float = Field(1, ge=0, le=1, description="Share of the requests traced; a client's traceparent goes before it.")

    # The cluster.
    ray_namespace: str = Field("attr-actors", description="Ray namespace of the actors.")
    ledger_resource: str = Field("", description="Custom Ray resource of the nodes that may hold the ledger's file; empty: any node.")
    process_cpus: float = Field(
        0,
        ge=0,
        description="CPUs that each actor and replica reserves; above 0 keeps them off a head without CPUs, and autoscalers add nodes.",
    )
    call_timeout_s: float = Field(10, gt=0, description="Longest wait of one actor for another's quick answer, s.")
    replicas_min: int = Field(1, ge=1, description="Fewest ingress replicas.")
    replicas_max: int = Field(2, ge=1, description="Most ingress replicas.")
    replica_requests_target: int = Field(
        100, ge=1, description="Requests under way per replica from which one more is started, up to the most; fewer let one go."
    )

    @field_validator("allowed_root")
    @classmethod
    def _root_is_a_directory(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("must be an absolute path")
        if not os.path.isdir(value):
            raise ValueError(f"'{value}' is not a directory")
        return os.path.realpath(value)

    @field_validator(
        "api_keys_file",
        "cache_file",
        "signatures_dir",
        "signatures_cache_dir",
        "nvidia_api_key_file",
        "llm_api_key_file",
        "elasticsearch_ca_file",
    )
    @classmethod
    def _file_is_absolute(cls, value: str) -> str:
        """Every process of the service has a working directory of its own."""
        return os.path.abspath(value) if value else value

    @field_validator("rate_limit_submit", "rate_limit_analyze", "rate_limit_preview")
    @classmethod
    def _rate_is_readable(cls, value: str) -> str:
        if not RATE.match(value):
            raise ValueError(f"'{value}' is not of the form N/second, N/minute, N/hour or N/day")
        return value

    @field_validator("traces_url")
    @classmethod
    def _traces_go_over_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, and end with the path, mostly /v1/traces")
        return value

    @classmethod
    def load(cls, **arguments: Any) -> Settings:
        """Read the settings. Raises BadSettings with one line per fault, naming the variable."""
        try:
            return cls(**arguments)
        except ValidationError as exc:
            raise named_faults(exc, env_name) from None

    def check_reach(self) -> None:
        """Raise BadSettings where everybody who reaches the address could read logs, unless that was said to be wanted."""
        if not (self.api_keys_file or self.allow_anonymous or is_loopback(self.host)):
            raise BadSettings(
                f"{PREFIX}HOST: everybody who reaches {self.host} could read logs; set {PREFIX}API_KEYS_FILE (see nvrx-attrsvc keys new), "
                f"or {PREFIX}ALLOW_ANONYMOUS=true where another guard stands before the service"
            )

    @property
    def rates(self) -> dict[str, str]:
        """Return the limits by the names that the door, its replicas' accounts and the limiter share."""
        return {"submit": self.rate_limit_submit, "analyze": self.rate_limit_analyze, "preview": self.rate_limit_preview}

    @property
    def llm_models(self) -> tuple[str, ...]:
        """Return the models to ask in turn, the first one first."""
        names = (self.llm_model, *self.llm_fallback_models.split(","))
        return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))

    @property
    def engine(self) -> EngineConfig:
        """Return the engine's part of the settings."""
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
        values = {name: getattr(self, name) for name in EngineConfig.model_fields}
        values["signatures_cache_dir"] = self.signatures_cache_dir or os.path.join(cache, "attr-actors")
        return EngineConfig(**values)

    @property
    def ledger_file(self) -> str:
        """Return the path of the ledger's database."""
        if self.cache_file:
            return self.cache_file
        return os.path.join(state_dir(), "ledger.db")

    @property
    def sink_names(self) -> tuple[str, ...]:
        """Return the names of the configured sinks: each new entry gets a delivery for each of them."""
        built_in = {
            "elasticsearch": bool(self.dataflow_index),
            "slack": bool(self.slack_bot_token and self.slack_bot_token.get_secret_value() and self.slack_channel),
            "webhook": bool(self.export_url),
        }
        own = (name.strip() for name in self.export_sinks.split(","))
        return tuple(dict.fromkeys([*(name for name, on in built_in.items() if on), *filter(None, own)]))

    def fingerprint(self) -> str:
        """Return a short hash of all settings: actors made with another one are replaced. Reveals no secret."""
        plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in self}
        return hashlib.sha256(repr(sorted(plain.items())).encode()).hexdigest()[:16]


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def state_dir() -> str:
    """Return where this user's programs keep what must outlive them."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(Path.home(), ".local", "state")
    return os.path.join(state, "attr-actors")


def named_faults(exc: ValidationError, variable: Callable[[str], str]) -> BadSettings:
    """Return the error with one line per fault, each with the variable to set."""
    return BadSettings("\n".join(f"{variable(str(error['loc'][0]))}: {_sentence(error)}" for error in exc.errors(include_url=False)))


def _sentence(error: Any) -> str:
    if error["type"] == "missing":
        return "is required; set it, for example to the directory that holds the job logs"
    return str(error["msg"]).removeprefix("Value error, ")


def env_name(field: str) -> str:
    """Return the environment variable of a field (or of an alias, which is its own name)."""
    if field in Settings.model_fields:
        alias = Settings.model_fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return str(alias.choices[0])
        return PREFIX + field.upper()
    return field


Origin = Literal["environment", ".env", "default"]


def origins() -> dict[str, Origin]:
    """Tell for each field where ``Settings.load()`` takes its value from."""
    sources: list[tuple[Origin, PydanticBaseSettingsSource]] = [
        ("environment", EnvSettingsSource(Settings)),
        (".env", DotEnvSettingsSource(Settings)),
    ]
    found: dict[str, Origin] = dict.fromkeys(Settings.model_fields, "default")
    for origin, source in reversed(sources):
        given = {str(k).lower() for k in source()}
        for name in found:
            if name in given or env_name(name).lower() in given or env_name(name).removeprefix(PREFIX).lower() in given:
                found[name] = origin
    return found


def masked(settings: Settings) -> dict[str, Any]:
    """Return the effective settings for people, with secrets and passwords in URLs masked."""
    shown: dict[str, Any] = {}
    for name, value in settings:
        if isinstance(value, SecretStr):
            value = "********"
        elif isinstance(value, str):
            value = re.sub(r"(://[^/:@\s]*):[^@/\s]*@", r"\1:********@", value)
        shown[name] = value
    return shown
