"""What a request asks for, read from OpenAI's JSON. What we cannot do is refused, never left out in silence."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tunesmith.serving.refusal import Refusal
from tunesmith.sources.text import Unreadable
from tunesmith.sources.turns import read_tools, read_turns

MOST_STOPS = 4
MOST_LIKELIEST = 20
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "echo": (False,), "suffix": ("",), "top_k": (0, -1), "min_p": (0,), "typical_p": (1,), "repetition_penalty": (1,),
    "repeat_penalty": (1,), "mirostat": (0,), "grammar": ("",), "guided_json": (), "guided_regex": (),
    "guided_choice": (), "guided_grammar": (), "functions": ([],), "function_call": ("none", "auto"),
    "modalities": (["text"],), "audio": (), "prediction": (), "web_search_options": (), "ignore_eos": (False,),
    "min_tokens": (0,), "stop_token_ids": ([],),
}  # fmt: skip
"""Parameters that would change the answer and that we do not have, with the values that change nothing."""
_UNABLE = {"n": "one answer is given to a request; leave n out, and ask as often as you want answers"}
LLAMA_HAS = {
    "frequency_penalty", "presence_penalty", "logit_bias", "top_k", "min_p", "typical_p", "repeat_penalty", "mirostat",
    "grammar", "ignore_eos",
}  # fmt: skip
"""Those of them that llama.cpp has."""


@dataclass(frozen=True)
class Wanted:
    """How an answer is to be written; the same for chats and plain texts."""

    model: str
    temperature: float
    top_p: float
    seed: int
    limit: int | None
    stop: list[str]
    likeliest: int | None
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class Conversation:
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    one_call: bool = False


def read_json(body: bytes) -> dict[str, Any]:
    """Strictly: no NaN, and no half of a surrogate pair, which nothing behind this can write as UTF-8."""
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise Refusal(400, f"the request is not JSON ({error}); send a JSON object", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the request must be a JSON object", code="invalid_json")
    return value


def read_wanted(body: Mapping[str, Any], *, by_llama: bool = False) -> Wanted:
    """Raises `Refusal` for what is out of range or cannot be done."""
    _refuse_unable(body, by_llama)
    stream = _flag(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _wrong("stream_options", "must be an object")
    seed = _whole(body, "seed", -(2**63), 2**63 - 1)
    return Wanted(
        model=_text(body, "model"),
        temperature=_number(body, "temperature", 0.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0),
        seed=secrets.randbits(63) if seed is None else seed % 2**64,
        limit=_limit(body),
        stop=_stops(body),
        likeliest=_likeliest(body),
        stream=stream,
        include_usage=stream and bool(options.get("include_usage")),
    )


def _refuse_unable(body: Mapping[str, Any], by_llama: bool) -> None:
    for name, neutral in _NEUTRAL.items():
        value = body.get(name)
        if value is None or value in neutral or (by_llama and name in LLAMA_HAS):
            continue
        raise _unsupported(name, _UNABLE.get(name, f"{name} is not supported here; leave it out"))
    kind = _kind(body.get("response_format"))
    if kind not in ("", "text") and not by_llama:
        said = "a run cannot be held to a JSON schema; export it, serve the GGUF, and ask that"
        raise _unsupported("response_format", said)


def _kind(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise _wrong("response_format", 'must be an object with "type"')
    return value["type"]


def _limit(body: Mapping[str, Any]) -> int | None:
    newer = _whole(body, "max_completion_tokens", 1, 2**31)
    return _whole(body, "max_tokens", 1, 2**31) if newer is None else newer


def _stops(body: Mapping[str, Any]) -> list[str]:
    value = body.get("stop")
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise _wrong("stop", "must be a text or a list of texts")
    if len(stops) > MOST_STOPS:
        raise _wrong("stop", f"has {len(stops)} texts; at most {MOST_STOPS} are taken")
    return [one for one in stops if one]


def _likeliest(body: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens are told: a chat says whether (logprobs) and how many (top_logprobs), a plain
    text says how many at once."""
    asked = body.get("logprobs")
    if asked is None or asked is False:
        return None
    if asked is True:
        return _whole(body, "top_logprobs", 0, MOST_LIKELIEST) or 0
    return _whole(body, "logprobs", 0, MOST_LIKELIEST)


# -- conversations ---------------------------------------------------------------------------------


def read_conversation(body: Mapping[str, Any], system: str) -> Conversation:
    """Messages as the rows that a run learns from: text, calls of tools written out. ``system`` is put in front when
    they have no system message of their own."""
    tools, one_call = _choice(body)
    return Conversation(_with_system(_turns(body), system), tools, one_call)


def read_messages(body: Mapping[str, Any], system: str) -> list[dict[str, Any]]:
    """Messages as they came, for llama.cpp, which knows OpenAI's form itself: only what cannot be text is refused."""
    named = zip(body.get("messages") or [], _turns(body), strict=True)
    return _with_system([{**given, "role": turn["role"]} for given, turn in named], system)


def _turns(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(body.get("messages"), list):  # files of rows may have them as text
        raise _wrong("messages", "must be a list")
    try:
        turns = read_turns(body["messages"], "messages", [])
    except Unreadable as reason:
        raise _wrong("messages", f"cannot be read: {reason}") from None
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _with_system(messages: list[dict[str, Any]], system: str) -> list[dict[str, Any]]:
    if not system or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _choice(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The tools that may be called, and whether only one may be."""
    choice = body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        said = "a model here cannot be made to call a tool; leave tool_choice out or give auto or none"
        raise _unsupported("tool_choice", said)
    try:
        tools = read_tools(body.get("tools"), "tools")
    except Unreadable as reason:
        raise _wrong("tools", f"cannot be read: {reason}") from None
    return ([] if choice == "none" else tools), body.get("parallel_tool_calls") is False


def read_prompt(body: Mapping[str, Any]) -> str | Sequence[int]:
    """The prompt of /v1/completions: text, or ids of tokens."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt
    ids = isinstance(prompt, list) and prompt and all(type(one) is int and one >= 0 for one in prompt)
    if not ids or not isinstance(prompt, list):
        raise _wrong("prompt", "must be one text, or a list of token ids; several prompts are several requests")
    return prompt


# -- single values ---------------------------------------------------------------------------------


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "must be text")
    return value or ""


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "must be true or false")
    return bool(value)


def _number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(name, f"must be a number from {least:g} to {most:g}")
    return float(value)


def _whole(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise _wrong(name, f"must be a whole number from {least} to {most}")
    return value


def _wrong(name: str, why: str) -> Refusal:
    return Refusal(400, f"{name} {why}", param=name, code="invalid_value")


def _unsupported(name: str, message: str) -> Refusal:
    return Refusal(400, message, param=name, code="unsupported_parameter")
