"""llama.cpp's own server, asked what a person would ask it: conversations become prompts by the file's
template, prompts become greedy answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.engines.writing import Generation
from tunesmith.errors import ModelError
from tunesmith.models.llama_server import served

Value = TypeVar("Value")
SLOTS = 4
"""Prompts answered at once."""


@dataclass(frozen=True)
class Answers:
    """prompts: token ids of each conversation, None where llama.cpp refuses it; answers: one for each prompt."""

    prompts: list[list[int] | None]
    answers: list[Generation]


def ask_server(
    gguf: Path,
    conversations: Sequence[Sequence[dict[str, Any]]],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Answers:
    """What llama.cpp's chat makes of conversations that end in a question, and its greedy answers to prompts.

    ``on_progress`` is called with the share of prompts that are answered; what it raises ends the server. Raises
    `ModelError` when llama.cpp cannot run the file, `EngineError` when it is not installed, `StorageError` when the
    disk of temporary files is full.
    """
    room = max((len(p) for p in prompts), default=0) + max_new_tokens + 8
    context = max(256, -(-room // 256) * 256)
    # The server ends before the pool: no thread waits for an answer that nobody wants any more.
    with ThreadPoolExecutor(SLOTS) as pool, served(gguf, slots=SLOTS, context=context) as address:
        asked = [pool.submit(_prompt, address, conversation) for conversation in conversations]
        answers = [pool.submit(_answer, address, prompt, max_new_tokens) for prompt in prompts]
        for done, answer in enumerate(as_completed(answers), 1):
            _result(answer, gguf)
            on_progress(done / len(prompts))
        return Answers([_result(one, gguf) for one in asked], [_result(one, gguf) for one in answers])


def _result(future: Future[Value], gguf: Path) -> Value:
    try:
        return future.result()
    except (OSError, HTTPException, ValueError, KeyError) as error:
        raise ModelError(f"llama.cpp's server cannot run {gguf} ({error}); export the model again") from error


def _prompt(address: str, messages: Sequence[dict[str, Any]]) -> list[int] | None:
    try:
        text = _post(address, "/apply-template", {"messages": list(messages)})["prompt"]
    except urllib.error.HTTPError:  # the template raises an exception for these turns
        return None
    return _post(address, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]


def _answer(address: str, prompt: Sequence[int], room: int) -> Generation:
    ids = [int(i) for i in prompt]
    got = _post(address, "/completion", {"prompt": ids, "n_predict": room, "temperature": 0, "return_tokens": True})
    stopped = got["stop_type"] == "eos"
    return Generation(got["tokens"][:-1] if stopped else got["tokens"], stopped)


def _post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback goes through no proxy
    with opener.open(request) as answer:
        return json.loads(answer.read())
