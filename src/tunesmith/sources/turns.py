"""The turns of a conversation, as the files of many programs hold them: lists, lists of pairs, and JSON as text."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.sources.example import Message
from tunesmith.sources.rendered import ROLES
from tunesmith.sources.text import HALF, Unreadable

REASONING = "the reasoning that stands beside an answer was left out"
MOST = 2_000
"""Turns of a conversation: a template writes all of them again for each answer."""
_CALLS = ("function_call", "tool_call", "工具调用")


def read_turns(raw: Any, key: str, notes: list[str]) -> list[Message]:
    """The turns under ``key``, in OpenAI's names or ShareGPT's. Raises `Unreadable`, as all here does."""
    raw = _parsed(raw, f'"{key}"')
    if not isinstance(raw, list) or not raw:
        raise Unreadable(f'"{key}" must be a list of one turn or more')
    if len(raw) > MOST:
        raise Unreadable(f'"{key}" has {len(raw):,} turns, more than the {MOST:,} of one row; divide the conversation')
    return [_turn(turn, key, notes) for turn in raw]


def _turn(turn: Any, key: str, notes: list[str]) -> Message:
    name = (turn.get("role") or turn.get("from")) if isinstance(turn, dict) else None
    if name is None:
        raise Unreadable(f'each turn in "{key}" needs "role" and "content", or "from" and "value"')
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        role = ROLES.get(str(name).strip().lower()) or ("call" if str(name).strip().lower() in _CALLS else None)
    content = turn.get("content")
    if content is None:
        content = turn.get("value")
    if role == "call":
        return Message("assistant", _calls(_parsed(content, "a tool call")), _is_learned(turn))
    if role is None:
        raise Unreadable(f"the role {name!r} is not known; known are system, user, assistant and tool")
    if role != "assistant":
        if type(content) is not str:
            content = _content(content, loose=role == "tool")
        return Message(role, content)
    calls = turn.get("tool_calls") or turn.get("function_call")
    if type(content) is not str:
        content = "" if content is None and calls else _content(content)
    if calls:
        content = f"{content}\n{_calls(calls)}" if content.strip() else _calls(calls)
    if turn.get("reasoning_content"):
        notes.append(REASONING)
    return Message("assistant", content, _is_learned(turn))


def _is_learned(turn: dict[str, Any]) -> bool:
    return turn.get("weight", 1) != 0  # OpenAI's files mark an answer that is not to be learned so


def _content(value: Any, loose: bool = False) -> str:
    """A list of parts that are text, or, if ``loose``, any JSON (what a tool gave back), as text."""
    if isinstance(value, list) and all(isinstance(part, str | dict) for part in value):
        kinds = ["text" if isinstance(part, str) else str(part.get("type")) for part in value]
        other = next((kind for kind in kinds if kind not in ("text", "input_text", "output_text")), None)
        if other is None:
            return "".join(part if isinstance(part, str) else read_text(part, "text") for part in value)
        if not loose:
            raise Unreadable(f"a turn holds a part of the type {other!r}; only text is read")
    return _dumped(value) if loose and value is not None else read_text({"content": value}, "content")


def _calls(raw: Any) -> str:
    """Tool calls as Hermes models write them, which most templates know."""
    written = []
    for call in raw if isinstance(raw, list) else [raw]:
        what = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(what, dict) or not isinstance(what.get("name"), str):
            raise Unreadable('a tool call needs "name" and "arguments"')
        arguments = _parsed(what.get("arguments") or {}, "the arguments of a tool call")
        written.append(f"<tool_call>\n{_dumped({'name': what['name'], 'arguments': arguments})}\n</tool_call>")
    return "\n".join(written)


def read_tools(raw: Any, key: str) -> list[dict[str, Any]]:
    """Tools as OpenAI describes them; bare descriptions of functions are wrapped."""
    tools = _parsed(raw, f'"{key}"') if raw else []
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Unreadable(f'"{key}" must be a list of descriptions of tools')
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def read_history(raw: Any, notes: list[str]) -> list[Message]:
    """Alpaca's history: pairs of a question and its answer, or turns."""
    turns = _parsed(raw, '"history"') if raw else []
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return read_turns(turns, "history", notes)
    if not isinstance(turns, list) or any(not isinstance(turn, list) or len(turn) != 2 for turn in turns):
        raise Unreadable('"history" must be a list of [question, answer]')
    past = []
    for turn in turns:
        asked, answered = (read_text({"history": text}, "history") for text in turn)
        past += [Message("user", asked), Message("assistant", answered, learn=True)]
    return past


def _parsed(value: Any, what: str) -> Any:
    """Tables, and some of OpenAI's fields, hold JSON as text."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
        if "\\ud" in value.lower():
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unreadable(HALF) from None
    except (ValueError, RecursionError):
        raise Unreadable(f"{what} is not JSON") from None
    return parsed


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        raise Unreadable("a tool call or its result is nested too deeply") from None


def read_text(row: dict[str, Any], key: str) -> str:
    """What must be text."""
    value = row.get(key)
    if not isinstance(value, str):
        raise Unreadable(f'"{key}" is missing' if value is None else f'"{key}" must be text')
    return value
