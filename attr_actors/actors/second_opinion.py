"""The second opinion: asks the model about an analysis that the rules have answered, and weighs what it says.

Not an actor: each analyzer holds one. Hold in mind: the rules' answer is already durable when this begins, so every way
out of here is either a better answer or the same one with the reason why it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from attr_actors.actors.conversation import Bill, Chat, Conversation
from attr_actors.actors.single_flight import SingleFlight
from attr_actors.adapters.llm_keys import find_key
from attr_actors.core import excerpts
from attr_actors.core.backoff import delay_s
from attr_actors.core.engine import result_id
from attr_actors.core.grounding import SURE, Prove, ground, locate, wants_opinion, weigh
from attr_actors.core.paths import LogPath
from attr_actors.core.prompting import PROMPT_VERSION, Prompt, build_prompt
from attr_actors.core.proofs import prover
from attr_actors.core.redaction import Finder, Redactor
from attr_actors.core.replies import Lookup, Reply, restored
from attr_actors.core.signatures.library import Signature
from attr_actors.errors import AttrError, BadReply, BusyError, ModelError
from attr_actors.handles import LedgerHandle, ModelGateHandle
from attr_actors.models import Action, Analysis, Attribution, Category, Line, ModelOpinion, ModelOutcome, Requester, StoredReply
from attr_actors.settings import Settings

T = TypeVar("T")

PENDING = "the model has not answered yet"
BABBLE_FIRST_S, BABBLE_LONGEST_S = 60.0, 3600.0
"""After an unusable answer the same question waits, doubling: a model that babbles on it once often does so again."""
ACQUIRE_WAIT_S = 5.0
"""One wait for a permit; below the time limit of actor calls, and repeated until the deadline for a permit."""


@dataclass(frozen=True)
class _Case:
    """What one second opinion is about."""

    rules: Attribution
    log: LogPath
    prompt: Prompt
    redactor: Redactor


class SecondOpinion:
    """Asks a model, within the bounds of this analyzer and of the gate, and never raises for what the model does."""

    def __init__(
        self, settings: Settings, chat: Chat, gate: ModelGateHandle, ledger: LedgerHandle, prove: Prove, finders: tuple[Finder, ...] = ()
    ) -> None:
        self._settings = settings
        self._chat = chat
        self._gate = gate
        self._ledger = ledger
        self._prove = prove
        self._finders = finders
        self._slots = asyncio.Semaphore(settings.llm_calls_per_analyzer)
        self._asking: SingleFlight[StoredReply] = SingleFlight(settings.flights_max)
        self._threads = ThreadPoolExecutor(settings.llm_calls_per_analyzer, thread_name_prefix="opinion")
        self._babble: dict[str, tuple[int, float]] = {}
        self.counts: Counter[str] = Counter()
        self._conversation = Conversation(settings, chat, self.counts)

    def wanted(self, analysis: Analysis) -> bool:
        """Tell whether the model should be asked: there is one, it has not answered, and something may have failed."""
        return self._chat.key_source is not None and bool(analysis.cycles) and wants_opinion(analysis.cycles[-1])

    def announce(self, analysis: Analysis) -> Analysis:
        """Return the analysis marked as waiting for the model: if this process dies now, the next request asks again."""
        return with_reason(analysis, PENDING)

    async def consider(self, analysis: Analysis, log: LogPath, requester: Requester) -> Analysis:
        """Return the analysis with the model's opinion on its last cycle, or with the reason why there is none.

        Only the cycle that ended the job is asked about: one call per log, however often its workload restarted.
        """
        try:
            return _with_last(analysis, await self._opinion(analysis.cycles[-1], log, requester))
        except (AttrError, TimeoutError) as exc:
            reason = exc.message if isinstance(exc, AttrError) else "reading the log again took too long"
            self.counts["llm.degraded"] += 1
            return with_reason(analysis, f"no second opinion: {reason}")

    async def close(self) -> None:
        """Ask no more, and close the connections to the model."""
        await self._asking.cancel()
        await self._chat.close()

    async def _opinion(self, rules: Attribution, log: LogPath, requester: Requester) -> Attribution:
        case = await self._in_thread(lambda: self._case(rules, log, requester))
        key = self._key(case.prompt)
        stored = await self._ledger.find_reply(key)
        self.counts["llm.reused"] += stored is not None
        told = stored or await self._asking.join(key, lambda: self._ask(key, case))
        found = await self._in_thread(lambda: self._weighed(case, told, reused=stored is not None))
        if found.opinion:
            self.counts["llm.citations_dropped"] += found.opinion.dropped_citations
            self.counts["llm.agreed" if found.opinion.agrees else "llm.disagreed"] += 1
        return found

    def _case(self, rules: Attribution, log: LogPath, requester: Requester) -> _Case:
        settings = self._settings
        redactor = Redactor(settings.llm_redaction, self._finders, _names(rules, requester))
        reply_room = min(settings.llm_max_tokens, settings.llm_context_tokens // 4)
        tokens_max = min(settings.llm_prompt_tokens_max, settings.llm_context_tokens - reply_room)
        # Where the rules are not sure, the signatures may know nothing of what happened: show how the log ends as well.
        tail = excerpts.read_tail(log) if rules.confidence < SURE else ()
        return _Case(rules, log, build_prompt(rules, redactor, tokens_max, settings.llm_lookups_max > 0, tail), redactor)

    def _key(self, prompt: Prompt) -> str:
        """Return the hash of everything that the answer depends on."""
        s = self._settings
        parts = (prompt.evidence_hash, s.llm_base_url, s.llm_models, s.llm_temperature, s.llm_top_p, s.llm_redaction, s.llm_lookups_max)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def _ask(self, key: str, case: _Case) -> StoredReply:
        """Ask within the bounds, and keep the answer. Raises ModelError or BadReply."""
        self._check_babble(key)
        async with self._slots:
            ticket = uuid.uuid4().hex
            await self._acquire(ticket)
            bill = Bill()
            outcome = ModelOutcome(result="abandoned")
            try:
                model, reply = await self._conversation.hold(case.prompt, case.redactor, functools.partial(self._look_up, case), bill)
                outcome = bill.outcome(None)
            except (ModelError, BadReply) as exc:
                outcome = bill.outcome(exc)
                if isinstance(exc, BadReply):
                    self._note_babble(key)
                raise
            finally:
                with contextlib.suppress(BusyError):  # A permit that does not come back expires.
                    await self._gate.release(ticket, outcome)
        stored = StoredReply(
            key=key,
            model=model,
            reply=restored(reply, case.redactor.restore).model_dump_json(),
            tokens_in=bill.tokens_in,
            tokens_out=bill.tokens_out,
            cost_usd=bill.cost_usd,
            latency_s=outcome.latency_s,
            stored_at=time.time(),
        )
        await self._ledger.save_reply(stored)
        return stored

    def _check_babble(self, key: str) -> None:
        """Raise BadReply if the model gave unusable answers to the same question a short while ago."""
        _, until = self._babble.get(key, (0, 0.0))
        if time.monotonic() < until:
            raise BadReply("the model's answers to this evidence could not be used; it is asked again later")

    def _note_babble(self, key: str) -> None:
        attempts = self._babble.pop(key, (0, 0.0))[0] + 1
        self._babble[key] = (attempts, time.monotonic() + delay_s(attempts, BABBLE_FIRST_S, BABBLE_LONGEST_S, 0.5))
        while len(self._babble) > self._settings.flights_max:
            del self._babble[next(iter(self._babble))]  # The oldest.

    async def _acquire(self, ticket: str) -> None:
        """Wait for a permit. Raises ModelError with the gate's reason."""
        until = time.monotonic() + self._settings.compute_timeout
        while True:
            permit = await self._gate.acquire(ticket, ACQUIRE_WAIT_S)
            if permit.granted:
                return
            if not permit.busy or time.monotonic() >= until:
                raise ModelError(permit.reason, permit.retry_after_s)

    async def _look_up(self, case: _Case, wishes: tuple[Lookup, ...], prompt: Prompt) -> list[Line]:
        """Read what the model asked to see. It names line numbers and literal text only, never a file."""

        def read() -> list[Line]:
            found: list[Line] = []
            for wish in wishes:
                if wish.kind == "search":
                    found += excerpts.search(case.log, wish.text)
                else:
                    found += excerpts.read_window(case.log, wish.line, _anchors(prompt))
            return found

        return await self._in_thread(read)

    def _weighed(self, case: _Case, told: StoredReply, reused: bool) -> Attribution:
        reply = Reply.model_validate_json(told.reply)
        places = locate(reply, case.prompt, case.redactor)
        read = excerpts.read_lines(case.log, [n for n in places if n is not None], _anchors(case.prompt))
        grounded = ground(reply, places, read, case.prompt, case.redactor)
        return weigh(case.rules, reply, grounded, case.prompt, self._prove, case.redactor, _opinion_of(told, reused))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with asyncio.timeout(self._settings.llm_call_timeout_s):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def with_reason(analysis: Analysis, reason: str) -> Analysis:
    """Return the analysis marked as lacking the model's opinion on its last cycle."""
    return _with_last(analysis, analysis.cycles[-1].model_copy(update={"degraded": reason}))


def _with_last(analysis: Analysis, last: Attribution) -> Analysis:
    """Return the analysis with another last cycle, and the result id that belongs to it."""
    cycles = (*analysis.cycles[:-1], last)
    return analysis.model_copy(update={"cycles": cycles, "result_id": result_id(analysis.snapshot, analysis.engine, cycles)})


def open_second_opinion(settings: Settings, gate: ModelGateHandle, ledger: LedgerHandle, rows: Sequence[Signature]) -> SecondOpinion | None:
    """Return the second opinion of one analyzer; None where there is no key, hence no model."""
    if find_key(settings, Path.home()) is None:
        return None
    # Only a process that will ask a model pays for loading the client and the detectors.
    from attr_actors.adapters.llm import ChatModel
    from attr_actors.adapters.secret_detectors import library_finders

    return SecondOpinion(settings, ChatModel(settings), gate, ledger, prover(rows), library_finders())


def _names(rules: Attribution, requester: Requester) -> list[tuple[str, str]]:
    """Return the identities that the analysis knows, which strict redaction then need not guess."""
    nodes = {line.node for line in (*rules.root_lines, *rules.evidence) if line.node}
    nodes |= {suspect.name for suspect in rules.suspects if suspect.kind == "node"} | set(rules.exclude_nodes)
    users = [] if requester.user == "unknown" or len(requester.user) < 2 else [("user", requester.user)]
    return [*users, *(("host", node) for node in sorted(nodes))]


def _anchors(prompt: Prompt) -> dict[int, int]:
    return {number: line.byte_offset for number, line in prompt.shown.items()}


def _opinion_of(told: StoredReply, reused: bool) -> ModelOpinion:
    """Return the opinion's bill; a reused reply costs nothing again."""
    return ModelOpinion(
        model=told.model,
        prompt_version=PROMPT_VERSION,
        action=Action.UNKNOWN,
        category=Category.UNKNOWN,
        root_cause="",
        agrees=False,
        tokens_in=0 if reused else told.tokens_in,
        tokens_out=0 if reused else told.tokens_out,
        cost_usd=0.0 if reused else told.cost_usd,
        latency_s=0.0 if reused else told.latency_s,
    )
