"""Multiple choice: the model's answer is the choice that it finds likeliest; nothing is generated.

The questions are a JSONL file's, in the shapes that are usual:

    {"question": "…", "choices": ["…", "…"], "answer": 1}                               the place from 0, or the choice
    {"question": "…", "choices": {"text": […], "label": ["A", …]}, "answerKey": "B"}    ARC
    {"question": "…", "options": {"A": "…", "B": "…"}, "answer": "B"}
    {"question": "…", "A": "…", "B": "…", "C": "…", "D": "…", "answer": "B"}            C-Eval, CMMLU
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from tunesmith import files
from tunesmith.dataset.similar import normal
from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import text_of
from tunesmith.settings.evaluate import ChoiceTaskSettings
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.text import json_problem


class ChoiceTask:
    """The questions of one file; the test rows have no part in it. Raises `SourceError` at a line that is none."""

    name = "choice"

    def __init__(self, settings: ChoiceTaskSettings, folder: Path) -> None:
        path = folder / settings.path
        lines = enumerate(text_of(path).split("\n"), 1)
        self._questions = [_question(line, Origin(str(path), number)) for number, line in lines if line.strip()]
        if not self._questions:
            raise SourceError(f'{path} holds no question; write {{"question": …, "choices": […], "answer": 0}} a line')

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        return self._questions

    def grade(self, question: Question, answer: str) -> Verdict:
        """``answer`` is the text of the choice that was likeliest."""
        if answer == question.reference:
            return Verdict(1.0, "the right choice")
        return Verdict(0.0, "another choice")


class _Unusable(ValueError):
    """What is wrong with a line."""


def _question(line: str, origin: Origin) -> Question:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise _Unusable("it is no JSON object")
        asked = row.get("question")
        if not isinstance(asked, str) or not asked.strip():
            raise _Unusable('"question" is missing or empty')
        choices, labels = _choices(row)
        right = _right(row.get("answer", row.get("answerKey")), choices, labels)
    except _Unusable as why:
        raise SourceError(f"{origin} is no question with choices: {why}; mend or remove the line") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{origin} is broken JSON: {json_problem(error)}; mend or remove the line") from None
    return Question(
        id=files.value_hash([asked, choices])[:16],
        messages=({"role": "user", "content": asked.strip()},),
        reference=choices[right],
        cluster=normal(asked),
        origin=str(origin),
        choices=tuple(choices),
    )


def _choices(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(texts, labels); no labels where the file gives none."""
    given = row.get("choices", row.get("options"))
    if given is None:
        given = {letter: row[letter] for letter in ascii_uppercase if letter in row}
    labels: list[Any] = []
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        given, labels = given["text"], given.get("label") or []
    elif isinstance(given, dict):
        given, labels = list(given.values()), list(given)
    if not isinstance(given, list) or len(given) < 2:
        raise _Unusable('"choices" must be a list of two or more')
    if labels and (not isinstance(labels, list) or len(labels) != len(given)):
        raise _Unusable('"choices" has not one label for each text')
    texts = [str(choice).strip() if _is_text(choice) else "" for choice in given]
    if "" in texts:
        raise _Unusable("a choice is empty, or no text")
    if len(set(texts)) < len(texts):
        raise _Unusable("the same choice is there twice")
    return texts, [str(label) for label in labels]


def _is_text(value: Any) -> bool:
    """A number will do: "choices": [3, 4, 5]."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _right(answer: Any, choices: list[str], labels: list[str]) -> int:
    """The place of the right choice. Labels of the file's own decide first, letters that are only counted last: of the
    choices "B" and "A" the answer "A" is the second."""
    if answer is None:
        raise _Unusable('"answer" is missing')
    if isinstance(answer, int) and not isinstance(answer, bool) and not labels:
        if not 0 <= answer < len(choices):
            raise _Unusable(f'"answer" is {answer}, and the places are 0 to {len(choices) - 1}')
        return answer
    said = str(answer).strip()
    for names in (labels, choices, [] if labels else list(ascii_uppercase[: len(choices)])):
        if said in names:
            return names.index(said)
    raise _Unusable(f'"answer" is {said[:60]!r}, which is none of the choices')
