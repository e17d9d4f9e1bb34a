"""Rows in JSON or JSONL, in the forms people have them, each read into an `Example` or put into quarantine.

{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
{"prompt": "…", "completion": "…"}
{"instruction": "…", "input": "…", "output": "…"}       with "system" and "history" where they are
{"text": "…"}                                           raw text, no chat
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.sources.example import Example, Message, Origin, Role
from tunesmith.sources.quarantine import Quarantined

FORMS = '"messages", "prompt"/"completion", "instruction"/"output" or "text"'

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant",
}  # fmt: skip


class _Unreadable(Exception):
    """Why one row cannot be read."""


def read_rows(path: Path) -> Iterator[Example | Quarantined]:
    """Every row of a .json (an array) or .jsonl file, in order.

    Raises `SourceError` when the file is missing, empty, or not text in UTF-8 or UTF-16.
    """
    text = read_text(path)
    if not text.strip():
        raise SourceError(f"{path} is empty; it should hold rows of JSON with {FORMS}")
    for line, raw in _array(text, path) if text.lstrip()[0] == "[" else _lines(text):
        origin = Origin(path.name, line)
        if isinstance(raw, Quarantined):
            yield Quarantined(origin, raw.reason, raw.text)
            continue
        try:
            yield read_row(raw, origin)
        except _Unreadable as reason:
            yield Quarantined(origin, str(reason), json.dumps(raw, ensure_ascii=False))


@contextmanager
def source_errors(path: Path) -> Iterator[None]:
    """A file that is missing, a folder or not readable becomes a `SourceError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}; check the recipe's paths and data.folder") from None
    except IsADirectoryError:
        raise SourceError(f"{path} is a folder; name the file in it") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """A file's text: UTF-8 with or without a mark, or UTF-16 with one."""
    with source_errors(path):
        data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SourceError(
            f"{path} is not in UTF-8: line {line} has the byte 0x{data[error.start]:02x}; save the file as UTF-8"
        ) from None


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): rows may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parse(line.strip())


def _array(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with its line; what follows a break in the JSON is one quarantined row."""
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    line, counted = 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if at >= len(text) or text[at] == "]":
            if at >= len(text):
                yield line, Quarantined(Origin(path.name, line), "the array is cut short: its ] is missing", "")
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError as error:
            reason = f"broken JSON ({error.args[0].split(':')[0]}); the rest of the array cannot be read"
            yield line, Quarantined(Origin(path.name, line), reason, text[at : at + 2000])
            return
        yield line, value
        at = end


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return Quarantined(Origin("", 0), f"broken JSON: {error}", line)


def read_row(row: Any, origin: Origin) -> Example:
    """One parsed row. Raises `_Unreadable` with the reason when it has none of the known forms."""
    if not isinstance(row, dict):
        raise _Unreadable(f"a row must be a JSON object, with {FORMS}")
    if "messages" in row:
        messages, used = _messages(row["messages"]), {"messages"}
    elif "prompt" in row and "completion" in row:
        messages, used = _pair(row, "prompt", "completion"), {"prompt", "completion", "system"}
    elif "instruction" in row:
        messages, used = _instruction(row), {"instruction", "input", "output", "system", "history"}
    elif "text" in row:
        messages, used = [Message("text", _string(row, "text"), learn=True)], {"text"}
    else:
        raise _Unreadable(
            f"no known form: a row needs {FORMS}, and this one has {', '.join(map(repr, row)) or 'nothing'}"
        )
    _check(messages)
    extra = {key: value for key, value in row.items() if key not in used}
    return Example(tuple(messages), origin, extra)


def _messages(raw: Any) -> list[Message]:
    if not isinstance(raw, list) or not raw:
        raise _Unreadable('"messages" must be a list of turns')
    messages = []
    for turn in raw:
        if not isinstance(turn, dict) or "role" not in turn:
            raise _Unreadable('each turn in "messages" needs "role" and "content"')
        if not isinstance(turn["role"], str) or turn["role"] not in _ROLES:
            raise _Unreadable(f"the role {turn['role']!r} is not known; known are system, user and assistant")
        role = _ROLES[turn["role"]]
        # OpenAI's files mark an answer that is not to be learned with "weight": 0.
        messages.append(Message(role, _string(turn, "content"), role == "assistant" and turn.get("weight", 1) != 0))
    return messages


def _pair(row: dict[str, Any], question: str, answer: str) -> list[Message]:
    system = [Message("system", _string(row, "system"))] if row.get("system") else []
    return [*system, Message("user", _string(row, question)), Message("assistant", _string(row, answer), learn=True)]


def _instruction(row: dict[str, Any]) -> list[Message]:
    system = [Message("system", _string(row, "system"))] if row.get("system") else []
    past, history = [], row.get("history") or []
    if not isinstance(history, list) or any(not isinstance(turn, list) or len(turn) != 2 for turn in history):
        raise _Unreadable('"history" must be a list of [question, answer]')
    for turn in history:
        asked, answered = (_string({"history": text}, "history") for text in turn)
        past += [Message("user", asked), Message("assistant", answered, learn=True)]
    given = _string(row, "input") if row.get("input") is not None else ""
    asked = "\n".join(part for part in (_string(row, "instruction"), given) if part)
    return [*system, *past, Message("user", asked), Message("assistant", _string(row, "output"), learn=True)]


def _string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise _Unreadable(f'"{key}" is missing' if value is None else f'"{key}" must be text')
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise _Unreadable(f'"{key}" holds half a character (a lone surrogate such as \\ud83d)')
    return value


def _check(messages: list[Message]) -> None:
    last = messages[-1]
    if last.role not in ("assistant", "text"):
        raise _Unreadable(f"no answer: the last turn is the {last.role}'s")
    if not any(m.learn for m in messages):
        raise _Unreadable("nothing to learn: every answer has weight 0")
    if any(m.learn and not m.content.strip() for m in messages):
        raise _Unreadable("an answer is empty")
    if last.role == "assistant" and not any(m.role == "user" for m in messages):
        raise _Unreadable("no question: there is no turn of the user")
    if last.role == "assistant" and any(m.role == "user" and not m.content.strip() for m in messages):
        raise _Unreadable("a question is empty")
