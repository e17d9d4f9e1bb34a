"""A GGUF behind OpenAI's protocol: llama.cpp writes, and everything around it is as for a run."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from served import answering

from tunesmith.models.find import starter_file
from tunesmith.serving.api import make_app
from tunesmith.serving.guard import LOOPBACK
from tunesmith.serving.llama import Llama
from tunesmith.serving.serve import opened

ASKED: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
NAME = "SmolLM2-135M-Instruct.Q4_1"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        opened(str(starter_file()), at_once=2, context=256) as backend,
        answering(make_app(backend, hosts=LOOPBACK)) as address,
    ):
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_a_conversation_whole_and_streamed_says_the_same(client: OpenAI):
    assert [model.id for model in client.models.list()] == [NAME]
    answer = client.chat.completions.create(model=NAME, messages=ASKED, max_tokens=12)
    said = answer.choices[0].message.content
    assert answer.model == NAME
    assert said
    chunks = list(client.chat.completions.create(
        model=NAME, messages=ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == said
    assert chunks[-1].usage is not None


def test_a_stop_string_ends_it_and_a_seed_repeats_it(client: OpenAI):
    asked: dict[str, Any] = {"model": NAME, "prompt": "One, two, three,", "max_tokens": 16}
    assert "five" not in client.completions.create(**asked, stop=[" five"]).choices[0].text
    drawn = [client.completions.create(**asked, temperature=1.5, seed=seed).choices[0].text for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_llama_cpps_own_names_do_not_set_limits_aside(client: OpenAI):
    asked: dict[str, Any] = {"model": NAME, "prompt": "One, two,", "max_tokens": 2}
    answer = client.completions.create(**asked, extra_body={"n_predict": 30, "n_keep": 3, "id_slot": 99})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_an_answer_is_held_to_a_json_schema(client: OpenAI):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    kind: Any = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema}}
    answer = client.chat.completions.create(model=NAME, messages=ASKED, max_tokens=30, response_format=kind)
    assert isinstance(json.loads(answer.choices[0].message.content or "")["n"], int)


def test_what_cannot_be_done_is_refused_in_the_same_form(client: OpenAI):
    long: list[Any] = [{"role": "user", "content": "word " * 400}]
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model=NAME, messages=long)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=ASKED)
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with pytest.raises(BadRequestError, match="not taught to call tools"):  # the starter's template has none
        client.chat.completions.create(model=NAME, messages=ASKED, tools=tools)
    with pytest.raises(BadRequestError, match="one answer"):
        client.chat.completions.create(model=NAME, messages=ASKED, n=2)
    with pytest.raises(BadRequestError, match="messages cannot be read"):
        client.chat.completions.create(model=NAME, messages=[])


def test_a_client_that_vanishes_frees_its_place(url: str):
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "Once upon a time", "stream": True, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    until = time.monotonic() + 4  # to the end of the answer it would take longer
    while httpx2.get(f"{url}/health").json()["writing"]:
        assert time.monotonic() < until


class _HangsUp(BaseHTTPRequestHandler):
    """Answers one request of a connection, says nothing of closing it, and hangs up on the next: what llama.cpp does
    after a hundred."""

    protocol_version = "HTTP/1.1"
    answered = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.close_connection = self.answered
        if not self.answered:
            self.answered = True
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_no_request_is_lost_where_llama_cpp_hangs_up_between_two():
    async def both(address: str) -> list[bytes]:
        llama = Llama("m", address, system="", at_once=1, waiting=1)
        said = list[bytes]()
        async with llama.running():
            for _ in range(2):
                async with llama.asked("/v1/completions", {}) as answer:
                    said.append(await answer.aread())
        return said

    with ThreadingHTTPServer(("127.0.0.1", 0), _HangsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert asyncio.run(both(f"http://127.0.0.1:{server.server_port}")) == [b"{}", b"{}"]
        server.shutdown()
