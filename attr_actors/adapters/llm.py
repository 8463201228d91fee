"""A chat model behind an OpenAI-compatible API: one bounded completion per call.

Hold in mind: the endpoint is a stranger. It may hang, drip, babble, refuse or change; every call ends by its deadline,
reads a bounded number of bytes, and fails as ModelError or BadReply only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
from pydantic import SecretStr

from attr_actors.adapters.llm_keys import Key, find_key
from attr_actors.adapters.llm_wire import BoundedTransport, Completion, Format, Question, format_arguments, read_completion
from attr_actors.core.backoff import delay_s, parse_retry_after
from attr_actors.errors import BadReply, ModelError, ModelRejected
from attr_actors.settings import Settings

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_LONGEST_S = 20.0


class ChatModel:
    """The client of one endpoint. Retries, key rotation and the answer format are settled here; nothing is remembered of a prompt."""

    def __init__(
        self,
        settings: Settings,
        home: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._home = home or Path.home()
        self._sleep = sleep
        self._chance = chance
        self._key: Key | None = find_key(settings, self._home)
        self._client: openai.AsyncOpenAI | None = None
        self._formats: dict[str, Format] = {}
        self.counts: Counter[str] = Counter()

    @property
    def key_source(self) -> str | None:
        """Return the name of the source that gave the key; None means that there is no key, hence no model."""
        return self._key.source if self._key else None

    async def complete(self, question: Question, until: float) -> Completion:
        """Return a completion before ``until`` (monotonic s). Raises ModelError (no usable answer in time) or BadReply (a refusal)."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._call(question, until)
            except ModelError as exc:
                pause = delay_s(attempt, RETRY_FIRST_S, RETRY_LONGEST_S, self._chance())
                pause = max(pause, exc.retry_after_s or 0.0)
                if not exc.retryable or attempt > self._settings.llm_retries_max or time.monotonic() + pause >= until:
                    raise
                self.counts["retries"] += 1
                await self._sleep(pause)

    async def close(self) -> None:
        """Close the connections."""
        if self._client:
            await self._client.close()
            self._client = None

    async def _call(self, question: Question, until: float) -> Completion:
        """Make one call, and again in the next format or with the next key if the endpoint refuses the present one."""
        model, rekeyed = question.model, False
        while True:
            wanted = self._formats.get(model, Format.JSON_SCHEMA)
            try:
                return await self._request(question, wanted, until)
            except openai.AuthenticationError:
                if rekeyed or not self._rekey():
                    raise ModelRejected("the model endpoint refuses the API key (401)") from None
                rekeyed = True
            except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
                if wanted is Format.PLAIN or _blames_length(exc):
                    self._formats.pop(model, None)  # It was not the format.
                    raise ModelRejected(f"the model endpoint refuses the request ({exc.status_code})") from None
                self._formats[model] = Format(wanted + 1)
                log.info("model %s refuses the format %s; trying %s from now on", model, wanted.name, self._formats[model].name)

    async def _request(self, question: Question, wanted: Format, until: float) -> Completion:
        settings = self._settings
        limit_s = min(settings.llm_call_timeout_s, until - time.monotonic())
        if limit_s <= 0:
            raise ModelRejected("the time for the model is over")
        self.counts["calls"] += 1
        try:
            async with asyncio.timeout(limit_s):
                reply = await self._open().chat.completions.with_raw_response.create(
                    model=question.model,
                    messages=cast(Any, list(question.messages)),
                    temperature=settings.llm_temperature,
                    top_p=settings.llm_top_p,
                    max_tokens=question.tokens_max,
                    timeout=limit_s,
                    **format_arguments(wanted, question.schema),
                )
        except (TimeoutError, openai.APITimeoutError):
            raise ModelRejected(f"the model did not answer within {limit_s:.0f} s") from None
        except (openai.AuthenticationError, openai.BadRequestError, openai.UnprocessableEntityError):
            raise
        except openai.APIStatusError as exc:
            raise _status_error(exc) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as exc:
            cause = exc.__cause__ or exc
            if isinstance(cause, httpx2.DecodingError):
                raise BadReply(str(cause)) from None
            raise ModelError(f"no connection to the model endpoint ({type(cause).__name__})") from None
        return read_completion(reply.content, question.model)

    def _open(self) -> openai.AsyncOpenAI:
        if self._client is None:
            if self._key is None:
                raise ModelRejected("there is no API key for the model")
            self._client = openai.AsyncOpenAI(
                api_key=self._key.secret.get_secret_value(),
                base_url=self._settings.llm_base_url,
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(transport=BoundedTransport(), follow_redirects=False),
            )
        return self._client

    def _rekey(self) -> bool:
        """Read the key sources again; tell whether they hold another key than the refused one."""
        refused: SecretStr | None = self._key.secret if self._key else None
        found = find_key(self._settings, self._home, refused)
        if found is None:
            return False
        log.warning("the model endpoint refused the API key; going on with the one from %s", found.source)
        self.counts["rekeyed"] += 1
        self._key = found
        if self._client:
            self._client.api_key = found.secret.get_secret_value()
        return True


def _blames_length(exc: openai.APIStatusError) -> bool:
    """Tell whether a refusal is about the prompt's length, which would come again in any format."""
    text = str(exc.body or exc.message).lower()
    return "context" in text and any(word in text for word in ("length", "window", "exceed", "size"))


def _status_error(exc: openai.APIStatusError) -> ModelError:
    status = exc.status_code
    message = f"the model endpoint answered {status}"
    if status in (408, 409, 425, 429) or status >= 500:
        return ModelError(message, parse_retry_after(exc.response.headers.get("retry-after")))
    return ModelRejected(message)
