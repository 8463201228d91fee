"""Second opinions in a batch, where ``--model`` asks for them.

Hold in mind: the model is the bottleneck of such a batch, a thousand times slower than the scanner, so a worker that
waits for it wastes nothing that could be had. The rules' answers are in the ledger before it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from attr_actors.actors.second_opinion import SecondOpinion, open_second_opinion, with_reason
from attr_actors.adapters.llm_keys import find_key
from attr_actors.batch_files import ROOT
from attr_actors.core.engine import Engine
from attr_actors.core.paths import LogPath
from attr_actors.errors import BadSettings
from attr_actors.handles import LedgerHandle, ModelGateHandle
from attr_actors.models import Analysis, Requester
from attr_actors.settings import Settings

logger = logging.getLogger(__name__)

TURN_WAIT_MAX_S = 86_400.0
"""Longest wait for the gate's permit: there are far more logs than permits, and nobody waits for one of them in particular."""


@dataclass(frozen=True)
class Model:
    """What a worker needs in order to ask: settings from ``asking_settings()``, and the one gate."""

    settings: Settings
    gate: ModelGateHandle


def asking_settings(settings: Settings) -> Settings:
    """Return the settings to ask with on any node: the key found here goes along. Raises BadSettings where there is none."""
    key = find_key(settings, Path.home())
    if key is None:
        raise BadSettings("NVIDIA_API_KEY: --model needs the key of a model; set it, NVIDIA_API_KEY_FILE, LLM_API_KEY or LLM_API_KEY_FILE")
    return settings.model_copy(update={"nvidia_api_key": key.secret})


class Opinions:
    """Asks about the answers of one worker: a few more at a time than it may have calls under way, so that each call follows the last."""

    def __init__(self, second: SecondOpinion, settings: Settings) -> None:
        self._second = second
        self._slots = asyncio.Semaphore(min(2 * settings.llm_calls_per_analyzer, settings.flights_max))

    def wanted(self, analysis: Analysis) -> bool:
        """Tell whether the model should be asked."""
        return self._second.wanted(analysis)

    async def weigh(self, analysis: Analysis, requester: Requester) -> Analysis:
        """Return the analysis with the model's opinion, or marked as degraded with the reason why there is none."""
        log = LogPath(analysis.snapshot.path, ROOT)  # Admitted when it was analysed; what is read is checked again as it is opened.
        async with self._slots:
            try:
                return await self._second.consider(analysis, log, requester)
            except Exception:
                logger.exception("the second opinion on '%s' failed unexpectedly", log.path)  # Its batch goes on.
                return with_reason(analysis, "no second opinion: unexpected error; the worker's log has the details")


@contextlib.asynccontextmanager
async def open_opinions(model: Model, ledger: LedgerHandle, engine: Engine) -> AsyncIterator[Opinions | None]:
    """Open the opinions of one worker on the running loop, and close its connections at the end; None where it finds no key."""
    patient = model.settings.model_copy(update={"compute_timeout": TURN_WAIT_MAX_S})
    second = open_second_opinion(patient, model.gate, ledger, engine.rows)
    try:
        yield Opinions(second, patient) if second else None
    finally:
        if second:
            await second.close()
