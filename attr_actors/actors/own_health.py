"""Who a process is, as every actor answers to ``health()``. Hold in mind: ``cluster.py`` replaces an actor that differs in it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from attr_actors import __version__
from attr_actors.models import Health
from attr_actors.settings import Settings


def own_health(name: str, settings: Settings, started_at: float, issues: Iterable[str] = (), failing: bool = False) -> Health:
    """Return the health of the actor in this process."""
    return Health(
        name=name,
        version=__version__,
        fingerprint=settings.fingerprint(),
        pid=os.getpid(),
        started_at=started_at,
        issues=tuple(issues),
        failing=failing,
    )
