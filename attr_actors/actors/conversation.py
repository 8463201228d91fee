"""A conversation with a model about one prompt: its look-ups, one repair, the fallback models, and the bill."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from attr_actors import tracing
from attr_actors.adapters.llm_wire import Completion, Question
from attr_actors.core.prompting import Prompt, with_found, with_repair
from attr_actors.core.redaction import Redactor
from attr_actors.core.replies import LOOKUPS_MAX, Lookup, Reply, parse_reply, reply_schema
from attr_actors.errors import AttrError, BadReply, ModelError
from attr_actors.models import Line, ModelOutcome
from attr_actors.settings import Settings

REPLY_TOKENS_MIN = 256
"""An answer is asked for even where the prompt has used up the context by estimate: estimates are from above."""

LookUp = Callable[[tuple[Lookup, ...], Prompt], Awaitable[list[Line]]]
"""Reads what the model asked to see."""


class Chat(Protocol):
    """The client of a model's endpoint."""

    @property
    def key_source(self) -> str | None:
        """Return where the key came from; None: there is none."""

    async def complete(self, question: Question, until: float) -> Completion:
        """Return a completion before ``until`` (monotonic s)."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass
class Bill:
    """What one second opinion has cost so far, also when it fails."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, got: Completion, prices: dict[str, tuple[float, float]]) -> None:
        """Add a call."""
        price_in, price_out = prices.get(got.model, (0.0, 0.0))
        self.calls += 1
        self.tokens_in += got.tokens_in
        self.tokens_out += got.tokens_out
        self.cost_usd += (got.tokens_in * price_in + got.tokens_out * price_out) / 1e6

    def outcome(self, exc: AttrError | None) -> ModelOutcome:
        """Tell the gate what became of its permit."""
        result = "answered" if exc is None else "unusable" if isinstance(exc, BadReply) else "failed"
        return ModelOutcome(
            result=result,
            tokens=self.tokens_in + self.tokens_out,
            cost_usd=self.cost_usd,
            latency_s=time.monotonic() - self.started,
            calls=self.calls,
            retry_after_s=exc.retry_after_s if exc else None,
        )


class Conversation:
    """Asks models in turn until one gives a usable answer. Makes at most 1 call, 1 repair and the allowed look-ups per model."""

    def __init__(self, settings: Settings, chat: Chat, counts: Counter[str]) -> None:
        self._settings = settings
        self._chat = chat
        self._counts = counts

    async def hold(self, prompt: Prompt, redactor: Redactor, look_up: LookUp, bill: Bill) -> tuple[str, Reply]:
        """Return the model that answered and its reply. Raises what the first model failed with."""
        until = time.monotonic() + self._settings.llm_deadline_s
        failures: list[ModelError | BadReply] = []
        for model in self._settings.llm_models:
            try:
                return model, await self._converse(model, prompt, redactor, look_up, bill, until)
            except (ModelError, BadReply) as exc:
                failures.append(exc)
        raise failures[0]

    async def _converse(self, model: str, prompt: Prompt, redactor: Redactor, look_up: LookUp, bill: Bill, until: float) -> Reply:
        lookups, repaired = self._settings.llm_lookups_max, False
        while True:
            got = await self._ask(model, prompt, until)
            bill.add(got, self._settings.llm_prices)
            try:
                reply = parse_reply(got.text)
            except BadReply as exc:
                problem = "it was cut off before its end" if got.cut else exc.message
                if repaired:
                    raise BadReply(f"the model's answer cannot be used: {problem}") from None
                repaired = True
                self._counts["llm.repairs"] += 1
                prompt = with_repair(prompt, got.text, problem)
                continue
            if not reply.lookups or lookups <= 0:
                return reply
            lookups -= 1
            self._counts["llm.lookups"] += 1
            found = await look_up(reply.lookups[:LOOKUPS_MAX], prompt)
            prompt = with_found(prompt, got.text, found, redactor, last=lookups == 0)

    async def _ask(self, model: str, prompt: Prompt, until: float) -> Completion:
        about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
        with tracing.span(f"chat {model}", "client", about) as call:
            got = await self._chat.complete(self._question(model, prompt), until)
            call.set({"gen_ai.usage.input_tokens": got.tokens_in, "gen_ai.usage.output_tokens": got.tokens_out})
            return got

    def _question(self, model: str, prompt: Prompt) -> Question:
        settings = self._settings
        tokens_max = min(settings.llm_max_tokens, max(REPLY_TOKENS_MIN, settings.llm_context_tokens - prompt.tokens))
        return Question(model, prompt.messages, reply_schema(settings.llm_lookups_max > 0), tokens_max)
