"""What may be forgotten: 301 small questions that have nothing to do with anybody's data, asked before and after.

They were written for this project and are in no data set: sums and little stories with one; common knowledge, four
choices each; instructions whose keeping a rule can check. Half of them are in English, half in Chinese.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.dataset.similar import normal
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.files import read_jsonl
from tunesmith.sources.example import Example

FILE = Path(__file__).with_name("general.jsonl")

Kind = Literal["arithmetic", "knowledge", "instruction"]
_KINDS: dict[str, Kind] = {"math": "arithmetic", "know": "knowledge", "inst": "instruction"}
"""By how their ids begin."""
_LIMITS: dict[Kind, int] = {"arithmetic": 32, "instruction": 40}
"""Tokens of an answer: enough for a right one in the tokenizers of all families, and for a little talk around it."""
_ASKED = {
    ("arithmetic", "en"): " Answer with the number only.",
    ("arithmetic", "zh"): "只写数字。",
    ("knowledge", "en"): " Answer in a few words.",
    ("knowledge", "zh"): "用几个字回答。",
}
"""What is said behind a question: without it the likeliest answer is a sentence, and no choice is one. The starter
model knows 43 % of the choices with it, 39 % without."""


@dataclass(frozen=True)
class Item:
    """One line of the file. ``rule``: what `_RULES` check, all of them."""

    id: str
    kind: Kind
    language: Literal["en", "zh"]
    question: str
    choices: Sequence[str] = ()
    answer: str = ""
    rule: dict[str, Any] = field(default_factory=dict)

    def ask(self) -> Question:
        asked = self.question + _ASKED.get((self.kind, self.language), "")
        return Question(
            self.id,
            ({"role": "user", "content": asked},),
            self.answer or self.example,
            cluster=self.id,
            choices=tuple(self.choices),
            limit=_LIMITS.get(self.kind),
        )

    @property
    def example(self) -> str:
        """What keeps to the rule, or the rule where that cannot be said by one word."""
        words = self.rule.get("one_of") or self.rule.get("any")
        return words[0] if words else json.dumps(self.rule, ensure_ascii=False)


class General:
    """The general set as a task. It asks no row."""

    name = "general"

    def __init__(self) -> None:
        self._items = {row["id"]: Item(**row) for row in read_jsonl(FILE)}

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        return [item.ask() for item in self._items.values()]

    def grade(self, question: Question, answer: str) -> Verdict:
        item = self._items[question.id]
        if item.choices:
            right = answer == item.answer
            return Verdict(float(right), "right choice" if right else "another choice")
        if item.answer:
            return _grade_number(item, answer)
        broken = next((name for name, wanted in item.rule.items() if not _RULES[name](answer, wanted)), "")
        return Verdict(float(not broken), f"not kept: {broken.replace('_', ' ')}" if broken else "kept")


def by_kind(samples: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Score and number of questions by kind, then by language, of the samples of one model on this task."""
    scores: dict[str, list[float]] = {key: [] for key in (*_KINDS.values(), "en", "zh")}
    for sample in samples:
        if sample["score"] is not None:
            kind, language, _ = sample["id"].split("-")
            scores[_KINDS[kind]].append(sample["score"])
            scores[language].append(sample["score"])
    return {key: {"score": sum(of) / len(of), "n": len(of)} for key, of in scores.items() if of}


# -- grading -----------------------------------------------------------------------------------------

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:['’-][^\W\u3400-\u9fff]+)*")
_FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)


def _grade_number(item: Item, answer: str) -> Verdict:
    """By the last number that the question does not have: "120 minutes are in 2 hours" and "3 + 4 = 7" are answers
    too. No sum's answer stands in its question."""
    given = _numbers(item.question)
    said = [number for number in _numbers(answer) if number not in given]
    if not said:
        return Verdict(0.0, "no number")
    right = said[-1] == float(item.answer)
    return Verdict(float(right), "right number" if right else "wrong number")


def _numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in _NUMBER.findall(unicodedata.normalize("NFKC", text))]


def _plain(text: str) -> str:
    """Without case, punctuation and the stars of Markdown."""
    return normal(text.replace("*", "")).strip()


def _bare(text: str) -> str:
    """With its punctuation, but without case and what stands around it all."""
    return unicodedata.normalize("NFKC", text).strip(" \n\"'“”*").casefold()


def _is_json(answer: str, wanted: dict[str, list[str]]) -> bool:
    """An object with just these keys, each with one of these values."""
    fenced = _FENCE.search(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(value, dict)
        and set(value) == set(wanted)
        and all(_plain(str(value[key])) in map(_plain, values) for key, values in wanted.items())
    )


def _says(answer: str, words: list[str]) -> bool:
    """Whether one of the words stands in it; of Latin letters, as a word."""
    said = f" {_plain(answer)} "
    return any((f" {word} " if word.isascii() else word) in said for word in words)


def _starts(answer: str, word: str) -> bool:
    return f"{_plain(answer)} ".startswith(f"{word} " if word.isascii() else word)


_RULES: dict[str, Callable[[str, Any], bool]] = {
    "any": _says,
    "one_of": lambda answer, texts: _plain(answer) in map(_plain, texts),
    "contains": lambda answer, texts: all(text in _bare(answer) for text in texts),
    "without": lambda answer, texts: not any(text in _bare(answer) for text in texts),
    "starts": _starts,
    "ends": lambda answer, text: _bare(answer).endswith(text),
    "words": lambda answer, limits: limits[0] <= len(_WORD.findall(answer)) <= limits[1],
    "lines": lambda answer, count: sum(bool(line.strip()) for line in answer.splitlines()) == count,
    "numbers": lambda answer, numbers: _numbers(answer) == numbers,
    "capitals": lambda answer, _: answer == answer.upper() != answer.lower(),
    "json": _is_json,
}
"""What an instruction can ask for. Words: in Chinese, characters."""
