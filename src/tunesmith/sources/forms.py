"""The forms that people have rows in, each read into an `Example` without being told which it is.

{"messages": [{"role": "user", "content": "…"}, …]}       OpenAI's, with "tool_calls", "tools" and "weight"
{"conversations": [{"from": "human", "value": "…"}, …]}   ShareGPT's, with "system" and "tools"
{"instruction": "…", "input": "…", "output": "…"}         Alpaca's, with "system" and "history"
{"prompt": "…", "completion": "…"}                        and other pairs: "question"/"answer", 问题/答案
{"text": "…"}                                             raw text, or turns with literal special tokens
Beside a question, "chosen" and "rejected" (DPO) or "label" (KTO).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from tunesmith.settings import Column
from tunesmith.sources.columns import FormName, plan_of
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.rendered import parse_rendered
from tunesmith.sources.text import Unreadable
from tunesmith.sources.turns import read_history, read_text, read_tools, read_turns

FORMS = '"messages", "prompt"/"completion", "instruction"/"output" or "text"'

UNANSWERED = "a last question that nobody answers was left out"
TAKEN_APART = "literal special tokens were taken apart into turns"
NULS = "NUL characters were removed"
PLACEHOLDER = "an answer holds {{…}}, a placeholder that nobody filled in"

_DEEPEST = 100
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def read_row(row: Any, origin: Origin, columns: Mapping[Column, str] = {}) -> Example:
    """One parsed JSON object or table row; ``columns`` says which key holds what where it is not recognised.

    Keys that the form does not use stay in ``extra``, unless they are null. What parsed the row has seen to it that no
    text holds half a character. Raises `Unreadable`.
    """
    if not isinstance(row, dict):
        raise Unreadable(f"a row must be a JSON object, with {FORMS}")
    if columns:
        _all_there(row, columns)
    plan = plan_of(row, columns)
    for key in plan.media:
        if row[key]:
            raise Unreadable(f'"{key}" holds pictures, sound or video; only text is read')
    notes: list[str] = []
    messages = _cleaned(_READ[plan.form](row, plan.keys, notes), notes)
    _cut_unanswered(messages, notes)
    _check(messages)
    extra = {key: row[key] for key in plan.further} if plan.further else {}
    if extra and any(_is_deep(value) for value in extra.values()):
        raise Unreadable(f"a value is nested more than {_DEEPEST} levels deep; leave its key out")
    if plan.meant:
        _put_extra(extra, row, plan.keys, notes)
    return Example(tuple(messages), origin, extra, "", tuple(dict.fromkeys(notes)) if notes else ())


def with_notes(example: Example, notes: Iterable[str]) -> Example:
    """The same row with more notes."""
    return replace(example, notes=(*example.notes, *notes))


def _all_there(row: dict[str, Any], columns: Mapping[Column, str]) -> None:
    for part, key in columns.items():
        if key not in row:
            there = ", ".join(f'"{name}"' for name in list(row)[:30]) or "none"
            raise Unreadable(f'the recipe\'s columns name "{key}", and the row has no such key; it has {there}')
        if row[key] is None and part not in ("context", "system"):
            raise Unreadable(f'"{key}" is empty')


WIKISQL = (
    'WikiSQL has such rows; {path = "train.jsonl", kind = "wikisql", tables = "train.tables.jsonl"} '
    "as the source reads the questions with their tables"
)


def _unknown(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    if {"header", "rows", "types", "id"} <= row.keys():
        raise Unreadable(f"no known form: {WIKISQL}")
    there = ", ".join(map(repr, list(row)[:30])) or "nothing"
    raise Unreadable(f"no known form: a row needs {FORMS}, and this one has {there}; columns = {{…}} can name its keys")


def _text(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    text = read_text(row, keys["text"])
    if turns := parse_rendered(text):
        notes.append(TAKEN_APART)
        return turns
    return [Message("text", text, learn=True)]


def _conversation(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    turns = read_turns(row[keys["messages"]], keys["messages"], notes)
    if turns[0].role != "system":
        turns = _system(row, keys) + turns
    return _chosen(turns, row, keys, notes) if "chosen" in keys else turns


def _pair(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    if len(keys) == 2:  # most rows, and the shortest way for them
        question, answer = row[keys["question"]], row[keys["answer"]]
        if type(question) is type(answer) is str:
            return [Message("user", question), Message("assistant", answer, True)]
    return _asked(row, keys, notes) + _answer(row, keys["answer"], notes)


def _question(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    """A question whose answer stands under "chosen", or in the prompt itself, as a list of turns."""
    if "chosen" in keys:
        return _chosen(_asked(row, keys, notes), row, keys, notes)
    if isinstance(row[keys["question"]], str):
        if isinstance(row.get("sql"), dict) and "table_id" in row:
            raise Unreadable(f"no known form: {WIKISQL}")
        raise Unreadable(f'no known form: "{keys["question"]}" asks, but an answer such as "output" is missing')
    return _asked(row, keys, notes)


def _alone(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    return _chosen(_system(row, keys), row, keys, notes)


def _chosen(asked: list[Message], row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    """The better answer behind the conversation, unless it repeats the whole of it."""
    chosen = _answer(row, keys["chosen"], notes)
    if any(message.role == "user" for message in chosen):
        return chosen if chosen[0].role == "system" else [m for m in asked[:1] if m.role == "system"] + chosen
    if asked and asked[-1].role == "assistant" and asked[-1].content == chosen[0].content:
        return asked
    if asked and asked[-1].role == "assistant":
        raise Unreadable(f'"{keys["chosen"]}" is a second answer: the conversation before it ends with another one')
    return asked + chosen


def _asked(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    question = row[keys["question"]]
    if isinstance(question, list):
        asked = read_turns(question, keys["question"], notes)
        return asked if asked[0].role == "system" else _system(row, keys) + asked
    parts = [read_text(row, keys[part]) for part in ("question", "context") if part in keys]
    past = read_history(row[keys["history"]], notes) if "history" in keys else []
    return [*_system(row, keys), *past, Message("user", "\n".join(part for part in parts if part))]


def _system(row: dict[str, Any], keys: dict[str, str]) -> list[Message]:
    text = read_text(row, keys["system"]) if "system" in keys else ""
    return [Message("system", text)] if text and not text.isspace() else []


def _answer(row: dict[str, Any], key: str, notes: list[str]) -> list[Message]:
    """An answer: text, a turn, or a list of turns."""
    value = row[key]
    if isinstance(value, dict | list):
        return read_turns([value] if isinstance(value, dict) else value, key, notes)
    return [Message("assistant", read_text(row, key), True)]


_READ: dict[FormName, Callable[[dict[str, Any], dict[str, str], list[str]], list[Message]]] = {
    "conversation": _conversation, "question": _question, "pair": _pair, "alone": _alone, "text": _text,
    "unknown": _unknown,
}  # fmt: skip


def _put_extra(extra: dict[str, Any], row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> None:
    """The three further keys that have a meaning: see `Example`."""
    if "tools" in keys and (tools := read_tools(row[keys["tools"]], keys["tools"])):
        extra["tools"] = tools
    if "rejected" in keys:
        worse = [turn for turn in _answer(row, keys["rejected"], notes) if turn.role == "assistant"]
        if not worse:
            raise Unreadable(f'"{keys["rejected"]}" holds no answer')
        extra["rejected"] = _cleaned(worse[-1:], notes)[0].content
    if "label" in keys:
        truth = _TRUTH.get(str(row[keys["label"]]).strip().lower())
        if truth is None:
            raise Unreadable(f'"{keys["label"]}" must be true or false')
        extra["label"] = truth
    elif "perhaps_label" in keys:
        value = row[keys["perhaps_label"]]
        truth = None if str(value).strip() in ("0", "1") else _TRUTH.get(str(value).strip().lower())
        extra[keys["perhaps_label"] if truth is None else "label"] = value if truth is None else truth


def _is_deep(value: Any, levels: int = _DEEPEST) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deep(item, levels - 1) for item in inner if isinstance(item, dict | list))


def _cleaned(messages: list[Message], notes: list[str]) -> list[Message]:
    """Without NUL characters, which come from broken conversions; placeholders are noted."""
    for place, message in enumerate(messages):
        text = message.content
        if "\0" in text:
            messages[place] = Message(message.role, text.replace("\0", ""), message.learn)
            notes.append(NULS)
        # One character is looked for ten times as fast as two.
        if message.role == "assistant" and "{" in text and "{{" in text and _PLACEHOLDER.search(_CODE.sub("", text)):
            notes.append(PLACEHOLDER)
    return messages


_CODE = re.compile(r"(`{3,}|~{3,}).*?(?:\1|\Z)|(`+)[^`]+\2", re.DOTALL)
_PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_{}^\\])\{\{ ?[^\W\d]\w+ ?\}\}(?!\})")  # not the double braces of TeX


def _cut_unanswered(messages: list[Message], notes: list[str]) -> None:
    if messages[-1].role in ("user", "tool") and any(message.learn for message in messages):
        while messages[-1].role in ("user", "tool"):
            messages.pop()
        notes.append(UNANSWERED)


def _check(messages: list[Message]) -> None:
    last = messages[-1].role
    if last not in ("assistant", "text"):
        raise Unreadable(f"no answer: the last turn is the {last}'s")
    learned = asked = empty = False
    for message in messages:
        if message.learn:
            learned = True
        elif message.role == "user":
            asked = True
        else:
            continue
        if not message.content or message.content.isspace():
            empty = True
    if empty or not learned or not asked:
        _say_what_lacks(messages, learned, last == "text")


def _say_what_lacks(messages: list[Message], learned: bool, is_text: bool) -> None:
    if not learned:
        raise Unreadable("nothing to learn: every answer has weight 0")
    if any(message.learn and not message.content.strip() for message in messages):
        raise Unreadable("the text is empty" if is_text else "an answer is empty")
    if is_text:
        return
    if not any(message.role == "user" for message in messages):
        raise Unreadable("no question: there is no turn of the user")
    raise Unreadable("a question is empty")
