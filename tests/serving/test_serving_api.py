"""A run behind OpenAI's protocol, asked by OpenAI's own client, and as other programs ask."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from served import answering
from tiny_chat import CHATML, write_chat, write_model
from tiny_served import CONTEXT, scripted, tiny_run, writers

from tunesmith.serving.answers import Answerer
from tunesmith.serving.api import make_app
from tunesmith.serving.guard import LOOPBACK

ASKED: list[Any] = [{"role": "user", "content": "who are you? 你是谁？"}]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return tiny_run(write_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def url(run: Answerer) -> Iterator[str]:
    with answering(make_app(writers(run), hosts=LOOPBACK)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as made:
        yield made


def expected(run: Answerer, messages: list[Any], limit: int, adapter: bool = True) -> str:
    [answer] = run.engine.generate(
        [run.chat.prompt(messages)], max_new_tokens=limit, stop=run.chat.stop, adapter=adapter
    )
    return run.chat.decode(answer.ids)


def streamed(chunks: Any) -> tuple[str, list[Any]]:
    taken = list(chunks)
    return "".join(chunk.choices[0].delta.content or "" for chunk in taken if chunk.choices), taken


# -- a conversation --------------------------------------------------------------------------------


def test_base_and_tuned_are_two_models_of_one_server(client: OpenAI, run: Answerer):
    assert [model.id for model in client.models.list()] == ["mine", "base"]
    assert client.models.retrieve("base").owned_by == "tunesmith"
    said = {
        name: client.chat.completions.create(model=name, messages=ASKED, max_tokens=24).choices[0].message.content
        for name in ("mine", "base")
    }
    assert said["mine"] == expected(run, [SYSTEM, *ASKED], 24)
    assert said["base"] == expected(run, [SYSTEM, *ASKED], 24, adapter=False)
    assert said["mine"] != said["base"]


def test_a_stream_says_the_same_piece_by_piece_and_counts_at_the_end(client: OpenAI, run: Answerer):
    text, chunks = streamed(client.chat.completions.create(
        model="mine", messages=ASKED, max_completion_tokens=24, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert text == expected(run, [SYSTEM, *ASKED], 24)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].usage.prompt_tokens == len(run.chat.prompt([SYSTEM, *ASKED]))


def test_a_conversation_goes_on_with_a_system_message_of_its_own(client: OpenAI, run: Answerer):
    messages: list[Any] = [{"role": "system", "content": "用中文回答。"}, *ASKED]
    for turn in range(3):
        answer = client.chat.completions.create(model="mine", messages=messages, max_tokens=8).choices[0].message
        assert answer.content == expected(run, messages, 8)
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": f"and {turn}?"}]


def test_a_stop_string_ends_the_answer_and_is_not_shown(client: OpenAI, run: Answerer):
    whole = expected(run, [SYSTEM, *ASKED], 24)
    stop = next(whole[i : i + 2] for i in range(3, 20) if "\ufffd" not in whole[i : i + 2])
    answer = client.chat.completions.create(model="mine", messages=ASKED, max_tokens=24, stop=[stop]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (whole[: whole.index(stop)], "stop")
    text, _ = streamed(
        client.chat.completions.create(model="mine", messages=ASKED, max_tokens=24, stop=stop, stream=True)
    )
    assert text == answer.message.content


def test_the_same_seed_says_the_same_and_another_says_something_else(client: OpenAI):
    def said(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="mine", messages=ASKED, max_tokens=16, temperature=1.0, top_p=0.9, seed=seed
        )
        return answer.choices[0].message.content

    assert said(1) == said(1) != said(2)


def test_log_probabilities_are_those_of_the_engine(client: OpenAI, run: Answerer):
    import numpy as np

    answer = client.chat.completions.create(
        model="base", messages=ASKED, max_tokens=3, logprobs=True, top_logprobs=2
    ).choices[0]
    assert answer.logprobs is not None
    first = (answer.logprobs.content or [])[0]
    logits = run.engine.logits(run.chat.prompt([SYSTEM, *ASKED]), adapter=False)[-1].astype(np.float64)
    best = logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert first.logprob == pytest.approx(best, abs=1e-4) == first.top_logprobs[0].logprob
    assert len(answer.logprobs.content or []) == 3
    assert first.bytes


def test_plain_text_is_continued(client: OpenAI, run: Answerer):
    ids = run.chat.encode("Once upon")
    [wanted] = run.engine.generate([ids], max_new_tokens=8, stop=run.chat.stop)
    for prompt in ("Once upon", ids):
        answer = client.completions.create(model="mine", prompt=prompt, max_tokens=8)
        assert answer.choices[0].text == run.chat.decode(wanted.ids)
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(model="mine", prompt="Once upon", max_tokens=8, stream=True)
    )
    assert text == run.chat.decode(wanted.ids)


def test_many_at_once_each_get_their_own_answer_and_no_other(client: OpenAI, run: Answerer):
    def ask(i: int) -> bool:
        messages = [{"role": "user", "content": f"{i} " * (1 + i % 5) + "x" * (300 if i == 3 else i)}]
        chunks = client.chat.completions.create(
            model="base" if i % 2 else "mine", messages=messages, max_tokens=12 + i, stream=True
        )
        return streamed(chunks)[0] == expected(run, [SYSTEM, *messages], 12 + i, adapter=not i % 2)

    with ThreadPoolExecutor(12) as pool:  # one prompt is read in pieces
        assert all(pool.map(ask, range(12)))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[str]:
    """A server that takes 40 seconds for an answer, and lets nobody wait."""
    answerer = scripted(write_chat(tmp_path / "chat"), "a" * CONTEXT, pace=0.1)
    with answering(make_app(writers(answerer, at_once=1, waiting=0), hosts=LOOPBACK)) as address:
        yield address


def test_a_client_that_vanishes_frees_its_place(slow: str):
    host, port = slow.removeprefix("http://").split(":")
    for stream in (True, False):
        body = json.dumps({"messages": ASKED, "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            wait_for(slow, 1)
        wait_for(slow, 0)


def wait_for(url: str, writing: int) -> None:
    until = time.monotonic() + 10  # far from both: an answer takes longer, and a busy machine less
    while httpx2.get(f"{url}/health").json()["writing"] != writing:
        assert time.monotonic() < until


def test_more_than_may_wait_are_told_when_to_come_again(slow: str):
    body = {"messages": ASKED, "stream": True}
    with httpx2.stream("POST", f"{slow}/v1/chat/completions", json=body) as first:
        pieces = first.iter_raw()
        next(pieces)
        second = httpx2.post(f"{slow}/v1/chat/completions", json=body)
    assert (second.status_code, second.headers["retry-after"]) == (429, "5")
    assert second.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_server_that_cannot_write_any_more_says_so_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(do: Any, jobs: Any) -> None:
        raise RuntimeError("no threads")

    answerer = scripted(write_chat(tmp_path / "chat"), "a")
    monkeypatch.setattr(answerer.engine, "side_by_side", broken)
    with answering(make_app(writers(answerer, at_once=1), hosts=LOOPBACK)) as url, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASKED}), "abc"))
        for answer in [*answers, httpx2.get(f"{url}/health")]:
            assert answer.status_code == 503
            said = answer.json()["error"]["message"]
            assert said == "the server cannot write any more (RuntimeError: no threads); start serve again"


# -- tools -----------------------------------------------------------------------------------------

TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TOOL_TEMPLATE = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}<tool_call>" + CHATML


def test_a_call_of_a_tool_comes_as_openai_gives_it(tmp_path: Path):
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    answerer = scripted(write_chat(tmp_path / "chat", TOOL_TEMPLATE), f"I look. {call}", calls=True)
    with (
        answering(make_app(writers(answerer), hosts=LOOPBACK)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        asked: dict[str, Any] = {"model": "said", "messages": ASKED, "tools": TOOLS, "tool_choice": "auto"}
        answer = client.chat.completions.create(**asked).choices[0]
        [made] = answer.message.tool_calls or []
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", "I look.")
        assert json.loads(made.function.arguments) == {"city": "北京"}  # type: ignore[union-attr]
        text, chunks = streamed(client.chat.completions.create(**asked, stream=True))
        assert (text, chunks[-1].choices[0].finish_reason) == ("I look. ", "tool_calls")
        [delta] = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
        assert (delta[0].index, delta[0].function.name) == (0, "weather")
        without = client.chat.completions.create(model="said", messages=ASKED).choices[0]
        assert "<tool_call>" in (without.message.content or "")
        turns = [*ASKED, answer.message.model_dump(exclude_none=True),
                 {"role": "tool", "tool_call_id": made.id, "content": "rain"}]  # fmt: skip
        assert client.chat.completions.create(model="said", messages=turns).choices[0].finish_reason == "stop"


# -- what bad input gets ---------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "status", "code", "param"), [
    ({"model": "gpt-9"}, 404, "model_not_found", "model"),
    ({"messages": []}, 400, "invalid_value", "messages"),
    ({"messages": '[{"role": "user", "content": "hi"}]'}, 400, "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400,
     "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": "x" * CONTEXT}]}, 400, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": "x" * 1_000_000}]}, 400, "context_length_exceeded", "messages"),
    ({"n": 2}, 400, "unsupported_parameter", "n"),
    ({"frequency_penalty": 0.5}, 400, "unsupported_parameter", "frequency_penalty"),
    ({"ignore_eos": True}, 400, "unsupported_parameter", "ignore_eos"),
    ({"logit_bias": {"5": 3}}, 400, "unsupported_parameter", "logit_bias"),
    ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_format"),
    ({"tools": TOOLS}, 400, "unsupported_parameter", "tools"),
    ({"temperature": 3}, 400, "invalid_value", "temperature"),
    ({"temperature": "hot"}, 400, "invalid_value", "temperature"),
    ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
    ({"stream": "yes"}, 400, "invalid_value", "stream"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_and_named(url: str, given: dict[str, Any], status: int, code: str, param: str):
    answer = httpx2.post(f"{url}/v1/chat/completions", json={"model": "mine", "messages": ASKED, **given})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]


def test_what_is_not_json_and_what_is_nowhere_get_an_error_in_the_same_form(url: str):
    half = json.dumps({"messages": [{"role": "user", "content": "\ud83d"}]}).encode()
    for body in (b"{", b"[1]", b"\xff", b"[" * 5000, half):
        answer = httpx2.post(f"{url}/v1/chat/completions", content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert httpx2.post(f"{url}/v1/embeddings", json={}).json()["error"]["code"] == "not_found"
    assert httpx2.get(f"{url}/v1/chat/completions").status_code == 405


def test_the_client_raises_its_own_errors(client: OpenAI):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="takes 400 together"):
        client.completions.create(model="mine", prompt="x" * CONTEXT)


# -- as other programs ask -------------------------------------------------------------------------


def test_dify_is_answered(url: str):
    """Its provider "OpenAI-API-compatible": a check of the key first, then a stream."""
    check = {"model": "mine", "max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]}
    assert httpx2.post(f"{url}/v1/chat/completions", json=check).json()["object"] == "chat.completion"
    body = {
        "model": "mine", "stream": True, "user": "abc-123", "max_tokens": 8, "temperature": 0.7, "top_p": 1,
        "frequency_penalty": 0, "presence_penalty": 0, "stop": [], "response_format": {"type": "text"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "你好"}]}],
    }  # fmt: skip
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, headers={"Accept": "application/json"})
    events = answer.text.split("\n\n")  # it divides a stream at empty lines
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[-3].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def test_open_webui_is_answered(url: str):
    """It lists the models, streams, and asks for a title without a stream; it sends fields of its own."""
    assert [model["id"] for model in httpx2.get(f"{url}/v1/models").json()["data"]] == ["mine", "base"]
    body = {
        "stream": True, "model": "mine", "params": {}, "tool_servers": [], "features": {"web_search": False},
        "variables": {"{{USER_NAME}}": "A"}, "session_id": "s", "chat_id": "c", "id": "i",
        "background_tasks": {"title_generation": True}, "stream_options": {"include_usage": True}, "max_tokens": 4,
        "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))["usage"]["completion_tokens"] == 4
    title = {"model": "mine", "messages": ASKED, "stream": False, "max_completion_tokens": 4, "metadata": {"task": "t"}}
    assert httpx2.post(f"{url}/v1/chat/completions", json=title).status_code == 200


def test_langchain_is_answered(url: str):
    """ChatOpenAI: nulls for what is not set, a history of parts and calls."""
    body = {
        "model": "mine", "stream": False, "n": 1, "max_completion_tokens": 6, "temperature": None, "top_p": None,
        "seed": None, "stop": None, "logit_bias": None, "logprobs": None, "tools": None, "parallel_tool_calls": None,
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "weather?", "name": "anna"},
            {"role": "assistant", "content": None,
             "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "now?"}]},
        ],
    }  # fmt: skip
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] <= 6
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_a_page_that_was_allowed_may_ask_from_a_browser(run: Answerer):
    page = "http://localhost:3000"
    with answering(make_app(writers(run), hosts=LOOPBACK, key="k", origins=[page])) as url:
        asks = {
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert httpx2.options(f"{url}/v1/chat/completions", headers=asks).status_code == 200
        answer = httpx2.get(f"{url}/v1/models", headers={"Origin": page, "Authorization": "Bearer k"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
        assert httpx2.get(f"{url}/v1/models", headers={"Origin": page}).status_code == 401
