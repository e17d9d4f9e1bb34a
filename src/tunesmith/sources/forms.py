"""The forms that people have rows in, each read into an `Example` without being told which it is.

{"messages": [{"role": "user", "content": "…"}, …]}       OpenAI's, with "tool_calls", "tools" and "weight"
{"conversations": [{"from": "human", "value": "…"}, …]}   ShareGPT's, with "system" and "tools"
{"instruction": "…", "input": "…", "output": "…"}         Alpaca's, with "system" and "history"
{"prompt": "…", "completion": "…"}                        and other pairs: "question"/"answer", 问题/答案
{"text": "…"}                                             raw text, or turns with literal special tokens
Beside a question, "chosen" and "rejected" (DPO) or "label" (KTO).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tunesmith.settings import Column
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.rendered import ROLES, parse_rendered
from tunesmith.sources.text import HALF, Unreadable

FORMS = '"messages", "prompt"/"completion", "instruction"/"output" or "text"'

UNANSWERED = "a last question that nobody answers was left out"
TAKEN_APART = "literal special tokens were taken apart into turns"
NULS = "NUL characters were removed"
REASONING = "the reasoning that stands beside an answer was left out"
PLACEHOLDER = "an answer holds {{…}}, a placeholder that nobody filled in"

# What a key is called, in small letters with _ for spaces; the first that a row has is taken.
_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "对话", "会话", "消息"),
    "question": ("instruction", "prompt", "question", "query", "user", "human", "q",
                 "指令", "问题", "提问", "用户", "提示", "提示词", "题目", "问"),
    "context": ("input", "context", "输入", "上下文", "背景"),
    "answer": ("output", "completion", "response", "answer", "target", "reply", "assistant", "a",
               "输出", "答案", "回答", "回复", "答复", "助手", "响应", "答"),
    "system": ("system", "system_prompt", "系统", "系统提示", "系统提示词"),
    "history": ("history", "历史", "历史对话"),
    "tools": ("tools", "functions", "工具"),
    "text": ("text", "content", "正文", "内容", "文本", "raw_content"),
    "chosen": ("chosen", "chosen_response", "优选"),
    "rejected": ("rejected", "rejected_response", "劣选"),
    "label": ("kto_tag",),
    "perhaps_label": ("label",),  # unless it is the name or number of a class
}  # fmt: skip
_MEDIA = ("image", "images", "audio", "audios", "video", "videos", "图片", "图像", "音频", "视频")
_CALLS = ("function_call", "tool_call", "工具调用")
_FORM_OF = {"messages": "messages", "question": "pair", "context": "pair", "answer": "pair", "text": "text"}
_MEANT = ("tools", "rejected", "label", "perhaps_label")
_DEEPEST = 100
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Plan:
    """How rows with certain keys are read. keys: which key plays which part, of those that the form uses."""

    form: Callable[[dict[str, Any], dict[str, str], list[str]], list[Message]]
    keys: dict[str, str]
    media: tuple[str, ...]
    further: tuple[str, ...]
    meant: bool  # it has one of the further keys with a meaning


def read_row(row: Any, origin: Origin, columns: Mapping[Column, str] = {}) -> Example:
    """One parsed JSON object or table row; ``columns`` says which key holds what where it is not recognised.

    Keys that the form does not use stay in ``extra``, unless they are null. What parsed the row has seen to it that no
    text holds half a character. Raises `Unreadable`.
    """
    if not isinstance(row, dict):
        raise Unreadable(f"a row must be a JSON object, with {FORMS}")
    if columns:
        _all_there(row, columns)
    keys = tuple(row) if None not in row.values() else tuple(key for key, value in row.items() if value is not None)
    plan = _plan(keys, tuple(columns.items()))
    for key in plan.media:
        if row[key]:
            raise Unreadable(f'"{key}" holds pictures, sound or video; only text is read')
    notes: list[str] = []
    messages = _cleaned(plan.form(row, plan.keys, notes), notes)
    _cut_unanswered(messages, notes)
    _check(messages)
    extra = {key: row[key] for key in plan.further} if plan.further else {}
    if extra and any(_is_deep(value) for value in extra.values()):
        raise Unreadable(f"a value is nested more than {_DEEPEST} levels deep; leave its key out")
    if plan.meant:
        _put_extra(extra, row, plan.keys, notes)
    return Example(tuple(messages), origin, extra, "", tuple(dict.fromkeys(notes)) if notes else ())


def with_note(example: Example, note: str) -> Example:
    """The same row with one more note."""
    return replace(example, notes=(*example.notes, note))


def _all_there(row: dict[str, Any], columns: Mapping[Column, str]) -> None:
    for part, key in columns.items():
        if key not in row:
            there = ", ".join(f'"{name}"' for name in list(row)[:30]) or "none"
            raise Unreadable(f'the recipe\'s columns name "{key}", and the row has no such key; it has {there}')
        if row[key] is None and part not in ("context", "system"):
            raise Unreadable(f'"{key}" is empty')


@lru_cache(256)
def _plan(keys: tuple[str, ...], columns: tuple[tuple[Column, str], ...]) -> Plan:
    """The same for all rows of a file, as a rule, so it is thought out once."""
    named = dict(columns)
    plain: dict[str, str] = {}
    for key in keys:
        if key not in named.values():
            plain.setdefault(str(key).strip().casefold().replace(" ", "_"), key)
    parts: dict[str, str] = {part: key for part, key in named.items() if key in keys}
    decided = {_FORM_OF[part] for part in named if part in _FORM_OF}  # what is named decides the form
    for part, names in _NAMES.items():
        found = next((plain[name] for name in names if name in plain), None)
        if found and part not in named and (not decided or _FORM_OF.get(part, "") in ("", *decided)):
            parts[part] = found
    if "question" not in parts and "context" in parts:
        parts["question"] = parts.pop("context")
    asks = ("question", "context", "history", "system", "tools")
    aside = ("chosen", "rejected", "label", "perhaps_label")
    if "messages" in parts:
        form, used = _conversation, ("messages", "system", "tools", *aside)
    elif "question" in parts and "chosen" in parts:
        form, used = _question, (*asks, *aside)
    elif "question" in parts and "answer" in parts:
        form, used = _pair, (*asks, "answer", *aside[1:])
    elif "chosen" in parts:
        form, used = _alone, ("system", "tools", *aside)
    elif "text" in parts and ("text" in named or "role" not in plain):  # not one turn without its conversation
        form, used = _text, ("text",)
    elif "question" in parts:
        form, used = _question, (*asks, *aside[1:])
    else:
        form, used = _unknown, ()
    taken = {part: key for part, key in parts.items() if part in used}
    media = tuple(plain[name] for name in _MEDIA if name in plain)
    further = tuple(key for key in keys if key not in taken.values())
    return Plan(form, taken, media, further, not taken.keys().isdisjoint(_MEANT))


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
    text = _string(row, keys["text"])
    if turns := parse_rendered(text):
        notes.append(TAKEN_APART)
        return turns
    return [Message("text", text, learn=True)]


def _conversation(row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> list[Message]:
    turns = _turns(row[keys["messages"]], keys["messages"], notes)
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
        asked = _turns(question, keys["question"], notes)
        return asked if asked[0].role == "system" else _system(row, keys) + asked
    parts = [_string(row, keys[part]) for part in ("question", "context") if part in keys]
    past = _history(row[keys["history"]], notes) if "history" in keys else []
    return [*_system(row, keys), *past, Message("user", "\n".join(part for part in parts if part))]


def _system(row: dict[str, Any], keys: dict[str, str]) -> list[Message]:
    text = _string(row, keys["system"]) if "system" in keys else ""
    return [Message("system", text)] if text and not text.isspace() else []


def _history(raw: Any, notes: list[str]) -> list[Message]:
    turns = _parsed(raw, '"history"') if raw else []
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return _turns(turns, "history", notes)
    if not isinstance(turns, list) or any(not isinstance(turn, list) or len(turn) != 2 for turn in turns):
        raise Unreadable('"history" must be a list of [question, answer]')
    past = []
    for turn in turns:
        asked, answered = (_string({"history": text}, "history") for text in turn)
        past += [Message("user", asked), Message("assistant", answered, learn=True)]
    return past


def _answer(row: dict[str, Any], key: str, notes: list[str]) -> list[Message]:
    """An answer: text, a turn, or a list of turns."""
    value = row[key]
    if isinstance(value, dict | list):
        return _turns([value] if isinstance(value, dict) else value, key, notes)
    return [Message("assistant", _string(row, key), True)]


def _turns(raw: Any, key: str, notes: list[str]) -> list[Message]:
    raw = _parsed(raw, f'"{key}"')
    if not isinstance(raw, list) or not raw:
        raise Unreadable(f'"{key}" must be a list of turns')
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
            return "".join(part if isinstance(part, str) else _string(part, "text") for part in value)
        if not loose:
            raise Unreadable(f"a turn holds a part of the type {other!r}; only text is read")
    return _dumped(value) if loose and value is not None else _string({"content": value}, "content")


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


def _tools(raw: Any, key: str) -> list[dict[str, Any]]:
    """Tools as OpenAI describes them; bare descriptions of functions are wrapped."""
    tools = _parsed(raw, f'"{key}"') if raw else []
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Unreadable(f'"{key}" must be a list of descriptions of tools')
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def _put_extra(extra: dict[str, Any], row: dict[str, Any], keys: dict[str, str], notes: list[str]) -> None:
    """The three further keys that have a meaning: see `Example`."""
    if "tools" in keys and (tools := _tools(row[keys["tools"]], keys["tools"])):
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


def _string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise Unreadable(f'"{key}" is missing' if value is None else f'"{key}" must be text')
    return value


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
