"""Where the model's API key comes from.

Hold in mind: keys are rotated in files while the service runs, so the sources are read again when the endpoint refuses
a key. A key is never logged; only the name of its source is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from attr_actors.settings import Settings

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 16_384
HOME_FILES = (".nvidia_api_key", ".config/nvrx/nvidia_api_key")


class Key(NamedTuple):
    """A key and the name of its source."""

    secret: SecretStr
    source: str


def find_key(settings: Settings, home: Path, refused: SecretStr | None = None) -> Key | None:
    """Return the first key in the order of the sources, other than the refused one; None if there is none."""
    return next((key for key in _keys(settings, home) if key.secret != refused), None)


def key_source(settings: Settings) -> str | None:
    """Return the name of the source that gives the key on this machine; None if there is no key, hence no model."""
    key = find_key(settings, Path.home())
    return key.source if key else None


def _keys(settings: Settings, home: Path) -> Iterator[Key]:
    yield from _given(settings.nvidia_api_key, "NVIDIA_API_KEY")
    yield from _read(settings.nvidia_api_key_file, "NVIDIA_API_KEY_FILE")
    for name in HOME_FILES:
        yield from _read(str(home / name), f"~/{name}", optional=True)
    yield from _given(settings.llm_api_key, "LLM_API_KEY")
    yield from _read(settings.llm_api_key_file, "LLM_API_KEY_FILE")


def _given(secret: SecretStr | None, source: str) -> Iterator[Key]:
    value = secret.get_secret_value().strip() if secret else ""
    if value:
        yield Key(SecretStr(value), source)


def _read(name: str, source: str, optional: bool = False) -> Iterator[Key]:
    if not name:
        return
    try:
        with Path(name).expanduser().open("rb") as file:
            value = file.read(FILE_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as exc:
        if not optional or not isinstance(exc, FileNotFoundError):
            log.warning("the key file of %s cannot be read (%s)", source, type(exc).__name__)
        return
    if value and value.isprintable():
        yield Key(SecretStr(value), source)
