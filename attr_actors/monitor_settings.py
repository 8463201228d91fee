"""The settings of ``nvrx-attrsvc monitor``. Names follow the predecessor's monitor: ``NVRX_ATTRSVC_URL`` and ``NVRX_SMONSVC_<FIELD>``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from attr_actors.errors import BadSettings
from attr_actors.settings import LogLevel, named_faults, state_dir

PREFIX = "NVRX_SMONSVC_"


class MonitorSettings(BaseSettings):
    """All settings of the Slurm monitor."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", populate_by_name=True, frozen=True, hide_input_in_errors=True
    )

    attrsvc_url: str = Field(
        "http://localhost:8000",
        description="The attribution service.",
        validation_alias=AliasChoices("NVRX_ATTRSVC_URL", "NVRX_ATTRSVC_ENDPOINT", PREFIX + "ATTRSVC_URL"),
    )
    attrsvc_api_key: SecretStr | None = Field(
        None, description="Key for the service.", validation_alias=AliasChoices("NVRX_ATTRSVC_API_KEY", PREFIX + "ATTRSVC_API_KEY")
    )
    attrsvc_api_key_file: str = Field(
        "", description="File with that key.", validation_alias=AliasChoices("NVRX_ATTRSVC_API_KEY_FILE", PREFIX + "ATTRSVC_API_KEY_FILE")
    )
    host: str = Field("127.0.0.1", description="Address of the status endpoint; loopback by default.")
    port: int | None = Field(None, ge=0, le=65535, description="TCP port of /healthz, /stats and /jobs; unset: none is opened.")
    interval: float = Field(180, gt=0, description="Time between two looks at Slurm, s.")
    partitions: str = Field("", description="Partitions to watch, separated by blanks or commas; empty: all.")
    user: str = Field("", description="Watch this user's jobs only; empty: everybody's.")
    job_pattern: str = Field("", description="Regular expression that a job's name must match from its start; empty: all.")
    timeout: float = Field(60, gt=0, description="Longest wait for one answer of the service, s.")
    lookback: float = Field(3600, ge=60, description="How far each look reaches back into accounting, s: its records may come late.")
    state_file: str = Field("", description="Where the monitor remembers jobs; empty: attr-actors/monitor.json in the state directory.")
    verbose: bool = Field(False, description="Log each look.")
    log_level: LogLevel = Field("INFO", description="Level of the monitor's own log.")

    @field_validator("port", mode="before")
    @classmethod
    def _empty_port_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("attrsvc_url")
    @classmethod
    def _url_is_http(cls, value: str) -> str:
        if not re.match(r"https?://[^/]+", value):
            raise ValueError(f"'{value}' is not an http:// or https:// address")
        return value.rstrip("/")

    @field_validator("job_pattern")
    @classmethod
    def _pattern_compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as exc:
            raise ValueError(f"not a regular expression: {exc}") from None
        return value

    @classmethod
    def load(cls, **arguments: Any) -> MonitorSettings:
        """Read the settings; arguments win over the environment. Raises BadSettings with one line per fault."""
        try:
            return cls(**arguments)
        except ValidationError as exc:
            raise named_faults(exc, _variable) from None

    @property
    def state_path(self) -> Path:
        """Return where the monitor remembers jobs."""
        if self.state_file:
            return Path(self.state_file).absolute()
        return Path(state_dir(), "monitor.json")

    @property
    def api_key(self) -> str:
        """Return the key for the service, from the setting or its file. Raises BadSettings if the file cannot be read."""
        if self.attrsvc_api_key:
            return self.attrsvc_api_key.get_secret_value()
        if not self.attrsvc_api_key_file:
            return ""
        try:
            return Path(self.attrsvc_api_key_file).read_text().strip()
        except OSError as exc:
            raise BadSettings(f"NVRX_ATTRSVC_API_KEY_FILE: {exc.strerror}: '{self.attrsvc_api_key_file}'") from None


def _variable(field: str) -> str:
    """Return the environment variable of a field (or of an alias, which is its own name)."""
    return field if field.startswith("NVRX_") else PREFIX + field.upper()
