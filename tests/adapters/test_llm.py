"""The model's client against a real HTTP endpoint with every fault: bounded in time, bytes and calls, two errors only."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from attr_actors.adapters.llm import ChatModel
from attr_actors.adapters.llm_wire import Completion, Question
from attr_actors.core.replies import reply_schema
from attr_actors.errors import BadReply, ModelError
from attr_actors.settings import Settings
from tests.model_server import ModelServer, Script, Step, answer, completion, refusal, serving


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def settings_for(url: str, tmp_path: Path, **changes: Any) -> Settings:
    given = {"allowed_root": str(tmp_path), "llm_base_url": url, "llm_model": "m", "llm_api_key": "key-1", "llm_call_timeout_s": 5.0}
    return Settings.load(**(given | changes))


def ask(
    script: Script, tmp_path: Path, within_s: float = 10.0, times: int = 1, **changes: Any
) -> tuple[list[Completion | Exception], ModelServer, ChatModel, list[float]]:
    """Ask a scripted endpoint and return what came back, the endpoint, the client and the pauses that it made."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await no_sleep(seconds)

    async def go(url: str) -> tuple[list[Completion | Exception], ChatModel]:
        model = ChatModel(settings_for(url, tmp_path, **changes), home=tmp_path, sleep=sleep, chance=lambda: 0.5)
        question = Question("m", [{"role": "user", "content": "why?"}], reply_schema(False), 500)
        results: list[Completion | Exception] = []
        for _ in range(times):
            try:
                results.append(await model.complete(question, time.monotonic() + within_s))
            except (ModelError, BadReply) as exc:
                results.append(exc)
        await model.close()
        return results, model

    with serving(script) as server:
        results, model = asyncio.run(go(server.url))
    return results, server, model, pauses


def test_a_good_answer_takes_one_call_and_counts_tokens(tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: answer(), tmp_path)
    assert isinstance(got, Completion)
    assert (json.loads(got.text)["action"], got.tokens_in, got.tokens_out, got.cut) == ("STOP", 900, 100, False)
    [request] = server.requests
    assert request["response_format"]["json_schema"]["schema"] == reply_schema(False)
    assert request["max_tokens"] == 500
    assert server.keys == ["Bearer key-1"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_faults_are_tried_again(status: int, tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: answer() if n == 2 else refusal(status), tmp_path)
    assert isinstance(got, Completion)
    assert len(server.requests) == 3


def test_lasting_faults_end_after_the_allowed_retries(tmp_path: Path) -> None:
    [got], server, model, pauses = ask(lambda r, n: refusal(500), tmp_path, llm_retries_max=3)
    assert isinstance(got, ModelError)
    assert got.message == "the model endpoint answered 500"
    assert len(server.requests) == 4
    assert pauses == sorted(pauses)
    assert model.counts["retries"] == 3


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    [got], _, _, pauses = ask(lambda r, n: refusal(429, retry_after="7") if n == 0 else answer(), tmp_path, within_s=60)
    assert isinstance(got, Completion)
    assert pauses == [7.0]


def test_a_retry_after_beyond_the_deadline_ends_the_asking_at_once(tmp_path: Path) -> None:
    [got], server, _, pauses = ask(lambda r, n: refusal(429, retry_after="3600"), tmp_path)
    assert isinstance(got, ModelError)
    assert got.retry_after_s == 3600
    assert (len(server.requests), pauses) == (1, [])


@pytest.mark.parametrize("status", [301, 402, 403, 404, 413])
def test_refusals_are_not_tried_again(status: int, tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: refusal(status, location="http://127.0.0.1:1/elsewhere"), tmp_path)
    assert isinstance(got, ModelError)
    assert len(server.requests) == 1


def test_a_hanging_endpoint_costs_one_call_of_limited_time(tmp_path: Path) -> None:
    began = time.monotonic()
    [got], server, _, _ = ask(lambda r, n: Step(hang=True), tmp_path, llm_call_timeout_s=0.3)
    assert isinstance(got, ModelError)
    assert len(server.requests) == 1
    assert time.monotonic() - began < 3


def test_a_dripping_endpoint_does_not_outlive_the_deadline(tmp_path: Path) -> None:
    good = answer()
    began = time.monotonic()
    [got], _, _, _ = ask(lambda r, n: Step(200, good.body, drip_s=0.05), tmp_path, within_s=0.4)
    assert isinstance(got, ModelError)
    assert time.monotonic() - began < 3


def test_a_dropped_connection_is_tried_again(tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: Step(drop=True) if n == 0 else answer(), tmp_path)
    assert isinstance(got, Completion)
    assert len(server.requests) == 2


def test_a_huge_reply_is_cut_off(tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: completion("x" * 3_000_000), tmp_path)
    assert isinstance(got, BadReply)
    assert "larger than" in got.message
    assert len(server.requests) == 1


def test_a_compressed_reply_is_refused_unread(tmp_path: Path) -> None:
    bomb = gzip.compress(b"0" * 1_000_000)
    [got], _, _, _ = ask(lambda r, n: Step(200, bomb, {"content-encoding": "gzip"}), tmp_path)
    assert isinstance(got, BadReply)


NOT_COMPLETIONS = [
    b"",
    b"not json",
    b"[]",
    b"null",
    b"{}",
    b'{"choices": []}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": 7}',
    b"\xff",
]


@pytest.mark.parametrize("body", NOT_COMPLETIONS)
def test_an_answer_that_is_no_completion_is_a_bad_reply(body: bytes, tmp_path: Path) -> None:
    [got], _, _, _ = ask(lambda r, n: Step(200, body), tmp_path)
    assert isinstance(got, BadReply)


def test_a_refusal_and_a_content_filter_are_bad_replies(tmp_path: Path) -> None:
    for step in (completion(None, refusal="no"), completion("", finish="content_filter")):
        [got], server, _, _ = ask(lambda r, n, step=step: step, tmp_path)
        assert isinstance(got, BadReply)
        assert len(server.requests) == 1


def test_truncation_is_told(tmp_path: Path) -> None:
    [got], _, _, _ = ask(lambda r, n: completion('{"root', finish="length"), tmp_path)
    assert isinstance(got, Completion)
    assert got.cut


def test_a_closed_port_and_a_tls_mismatch_are_connection_failures(tmp_path: Path) -> None:
    async def go(url: str) -> str:
        model = ChatModel(settings_for(url, tmp_path, llm_retries_max=0), home=tmp_path)
        question = Question("m", [{"role": "user", "content": "why?"}], {}, 5)
        with pytest.raises(ModelError) as caught:
            await model.complete(question, time.monotonic() + 5)
        await model.close()
        return caught.value.message

    assert "no connection" in asyncio.run(go("http://127.0.0.1:9/v1"))
    with serving(lambda r, n: answer()) as server:
        assert "no connection" in asyncio.run(go(server.url.replace("http:", "https:")))


def test_a_server_without_json_schema_is_asked_by_tool_and_one_without_tools_plainly_and_that_is_remembered(tmp_path: Path) -> None:
    def script(request: dict[str, Any], n: int) -> Step:
        if "response_format" in request:
            return refusal(400, "response_format is not supported")
        if "tools" in request:
            return refusal(422, "tools are not supported")
        return answer()

    got, server, _, _ = ask(script, tmp_path, times=2)
    assert all(isinstance(g, Completion) for g in got)
    assert len(server.requests) == 4  # Three to learn, one afterwards.


def test_a_tool_calls_arguments_are_the_answer(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "answer", "arguments": '{"action": "STOP"}'}}
    [got], _, _, _ = ask(lambda r, n: completion(None, tool_calls=[call]), tmp_path)
    assert isinstance(got, Completion)
    assert got.text == '{"action": "STOP"}'


def test_a_prompt_beyond_the_context_is_not_tried_in_other_formats(tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: refusal(400, "This model's maximum context length is 8192 tokens"), tmp_path)
    assert isinstance(got, ModelError)
    assert len(server.requests) == 1


def test_a_rotated_key_is_read_again_after_a_401(tmp_path: Path) -> None:
    place = tmp_path / "key"
    place.write_text("key-1\n")

    def script(request: dict[str, Any], n: int) -> Step:
        place.write_text("key-2\n")
        return refusal(401) if n == 0 else answer()

    [got], server, model, _ = ask(script, tmp_path, llm_api_key=None, llm_api_key_file=str(place))
    assert isinstance(got, Completion)
    assert server.keys == ["Bearer key-1", "Bearer key-2"]
    assert model.counts["rekeyed"] == 1


def test_a_refused_key_without_a_new_one_is_one_call(tmp_path: Path) -> None:
    [got], server, _, _ = ask(lambda r, n: refusal(401), tmp_path)
    assert isinstance(got, ModelError)
    assert "key-1" not in got.message
    assert len(server.requests) == 1


def test_the_sources_of_the_key_have_the_predecessors_order(tmp_path: Path) -> None:
    home = [".nvidia_api_key", ".config/nvrx/nvidia_api_key"]
    (tmp_path / ".config/nvrx").mkdir(parents=True)
    for name in ("a", "b", *home):
        (tmp_path / name).write_text(f" {name}-key\n")
    given = {"nvidia_api_key": "x", "nvidia_api_key_file": str(tmp_path / "a"), "llm_api_key": "y", "llm_api_key_file": str(tmp_path / "b")}
    order = []
    for source in ("nvidia_api_key", "nvidia_api_key_file", *home, "llm_api_key", "llm_api_key_file"):
        order.append(ChatModel(Settings.load(allowed_root=str(tmp_path), **given), home=tmp_path).key_source)
        if source in given:
            del given[source]
        else:
            (tmp_path / source).unlink()
    assert order == ["NVIDIA_API_KEY", "NVIDIA_API_KEY_FILE", *(f"~/{name}" for name in home), "LLM_API_KEY", "LLM_API_KEY_FILE"]
    assert ChatModel(Settings.load(allowed_root=str(tmp_path)), home=tmp_path).key_source is None


def test_a_key_file_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"\xff\x00\x01")
    settings = Settings.load(allowed_root=str(tmp_path), llm_api_key_file=str(tmp_path / "k"))
    assert ChatModel(settings, home=tmp_path).key_source is None
