"""What the keys of a row, or the columns of a table, are for, told by their names or by the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from tunesmith.settings import Column

FormName = Literal["conversation", "question", "pair", "alone", "text", "unknown"]
"""What `forms` makes messages of."""

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
_FORM_OF = {"messages": "messages", "question": "pair", "context": "pair", "answer": "pair", "text": "text"}
_MEANT = ("tools", "rejected", "label", "perhaps_label")


@dataclass(frozen=True)
class Plan:
    """How rows with certain keys are read. keys: which key plays which part, of those that the form uses."""

    form: FormName
    keys: dict[str, str]
    media: tuple[str, ...]
    further: tuple[str, ...]
    meant: bool  # it has one of the further keys with a meaning


def plan_of(row: dict[str, Any], columns: Mapping[Column, str]) -> Plan:
    """How a row is read; what is null in it is not there."""
    keys = tuple(row) if None not in row.values() else tuple(key for key, value in row.items() if value is not None)
    return _plan(keys, tuple(columns.items()))


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
    form: FormName
    if "messages" in parts:
        form, used = "conversation", ("messages", "system", "tools", *aside)
    elif "question" in parts and "chosen" in parts:
        form, used = "question", (*asks, *aside)
    elif "question" in parts and "answer" in parts:
        form, used = "pair", (*asks, "answer", *aside[1:])
    elif "chosen" in parts:
        form, used = "alone", ("system", "tools", *aside)
    elif "text" in parts and ("text" in named or "role" not in plain):  # not one turn without its conversation
        form, used = "text", ("text",)
    elif "question" in parts:
        form, used = "question", (*asks, *aside[1:])
    else:
        form, used = "unknown", ()
    taken = {part: key for part, key in parts.items() if part in used}
    media = tuple(plain[name] for name in _MEDIA if name in plain)
    further = tuple(key for key in keys if key not in taken.values())
    return Plan(form, taken, media, further, not taken.keys().isdisjoint(_MEANT))
