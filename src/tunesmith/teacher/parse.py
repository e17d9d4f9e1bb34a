"""Replies into what they should be, as tolerantly as can be without guessing what was meant."""

from __future__ import annotations

import json
import re
from typing import Any

_THOUGHT = re.compile(r"^\s*<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"(`{3,}|~{3,})[^\n`]*\n(.*?)(?:\n[ \t]*\1|\Z)", re.DOTALL)
_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\(?\d{1,3}[.)、:]|[QＱ]\d{0,3}[.:：])[ \t]*(\S.*)$", re.MULTILINE)
_COMMA = re.compile(r",(?=\s*[\]}])")
_LABEL = re.compile(r"^\s*\**(?:answer|response|答案|回答|答)\**\s*[:：]\s*\**\s*", re.IGNORECASE)


def without_thought(text: str) -> str:
    """The reply without the reasoning that some models write before it."""
    return _THOUGHT.sub("", text).strip()


def plain(text: str) -> str:
    """An answer in prose: no reasoning, no label before it, no fence around all of it."""
    text = _LABEL.sub("", without_thought(text))
    fence = _FENCE.fullmatch(text.strip())
    if fence and text.strip().lower().startswith(("```markdown", "```text", "```md", "```\n")):
        text = fence[2]
    return text.strip()


def find_json(text: str) -> Any:
    """The JSON value in a reply, whatever stands around it; trailing commas are forgiven. None when there is none."""
    text = without_thought(text)
    candidates = [text, *(m[2] for m in _FENCE.finditer(text))]
    for candidate in candidates:
        for start in (m.start() for m in re.finditer(r"[\[{]", candidate[:2000])):
            for form in (candidate[start:], _COMMA.sub("", candidate[start:])):
                try:
                    return json.JSONDecoder(strict=False).raw_decode(form)[0]
                except (ValueError, RecursionError):
                    continue
    return None


def listed(text: str) -> list[str]:
    """The items of a numbered or bulleted list."""
    return [m[1].strip() for m in _ITEM.finditer(without_thought(text))]


def groups(text: str) -> list[list[str]]:
    """Questions in several wordings each; of a mere list, one wording each."""
    value = find_json(text)
    found = wordings(value) if value is not None else []
    return found or [[tidy(item)] for item in listed(text) if tidy(item)]


def wordings(value: Any) -> list[list[str]]:
    """[{"wordings": [...]}], [[...]], [{"question": "..."}], ["..."], or an object that holds one of these."""
    if isinstance(value, dict):
        if "wordings" in value or "question" in value:
            value = [value]
        else:
            value = next((v for v in value.values() if isinstance(v, list)), [])
    made = []
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict):
            first = [item["question"]] if isinstance(item.get("question"), str) else []
            item = first + next((v for v in item.values() if isinstance(v, list)), [])
        texts = [item] if isinstance(item, str) else item if isinstance(item, list) else []
        kept = dict.fromkeys(tidy(t) for t in texts if isinstance(t, str) and tidy(t))
        if kept:
            made.append(list(kept))
    return made


def one_question(text: str) -> str:
    """A single question: JSON, or the reply itself when it is one line."""
    value = find_json(text)
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, str)), "")
    if isinstance(value, list):
        value = next((v for v in value if isinstance(v, str)), "")
    if isinstance(value, str):
        return tidy(value)
    lines = [line for line in without_thought(text).splitlines() if line.strip()]
    return tidy((listed(text) or lines)[0]) if len(lines) == 1 else ""


def verdict(text: str) -> bool | None:
    """What a judge says: {"good": true}, or yes and no at the beginning. None when it says neither."""
    value = find_json(text)
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, bool)), None)
        return value
    word = re.match(r"\W*(yes|true|no|false|是|对|不|否)", without_thought(text), re.IGNORECASE)
    return None if word is None else word[1].lower() in ("yes", "true", "是", "对")


def tidy(text: str) -> str:
    """A question on one line, without marks of a list or quotation marks around it."""
    text = " ".join(text.replace("**", "").split())
    text = re.sub(r"^(?:\(?\d{1,3}[.)、]\s+|[-*•]\s+)", "", text)
    for a, b in ('""', "“”", "「」", "''"):
        if len(text) > 1 and text.startswith(a) and text.endswith(b):
            text = text[1:-1].strip()
    return text
