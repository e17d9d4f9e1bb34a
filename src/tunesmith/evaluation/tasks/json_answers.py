"""JSON: whether an answer is JSON, and keeps to a schema. Whether it equals the reference is said, not scored: two
right answers may differ."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import ask_answered, text_of
from tunesmith.evaluation.tasks.json_schema import BadSchema, Schema, same
from tunesmith.settings.evaluate import JsonTaskSettings
from tunesmith.sources.example import Example
from tunesmith.sources.text import json_problem


class JsonTask:
    """Raises `SourceError` when the schema is missing, or cannot be used."""

    name = "json"

    def __init__(self, settings: JsonTaskSettings, folder: Path) -> None:
        self._schema = _read_schema(folder / settings.schema_file) if settings.schema_file else None

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        """Raises `SourceError` for a reference that is JSON and does not keep to the schema."""
        asked = ask_answered(rows, self.name)
        for question in asked:
            if self._schema and (found := _reference(question)) and (fault := self._schema.fault(found[0])):
                raise SourceError(
                    f"{question.origin}: the answer does not keep to the schema: {fault}; mend the row, or the schema"
                )
        return asked

    def grade(self, question: Question, answer: str) -> Verdict:
        try:
            return self._grade(question, json_in(answer))
        except NoJson as why:
            return Verdict(0.0, str(why))
        except (ValueError, RecursionError) as error:
            return Verdict(0.0, f"broken JSON: {json_problem(error)}")

    def _grade(self, question: Question, value: Any) -> Verdict:
        if fault := self._schema.fault(value) if self._schema else "":
            return Verdict(0.0, f"does not keep to the schema: {fault}")
        reference = _reference(question)
        if reference is None:
            return Verdict(1.0, "valid")
        return Verdict(1.0, f"valid, and {'equal' if same(reference[0], value) else 'not equal'} to the reference")


class NoJson(ValueError):
    """An answer holds nothing that could be JSON."""


def json_in(answer: str) -> Any:
    """The object or array of an answer: all of its first fenced block, else what its first { or [ begins. Raises
    ValueError when there is none (`NoJson`) or it is broken, RecursionError when it is nested too deeply."""
    fenced = _FENCE.search(answer)
    text = fenced["body"].strip() if fenced else answer
    start = re.search(r"[{\[]", text)
    if start is None:
        raise NoJson("no JSON")
    if fenced:
        return _DECODER.decode(text)
    return _DECODER.raw_decode(text, start.start())[0]


def _no_constant(name: str) -> Any:
    raise NoJson(f"broken JSON: {name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_FENCE = re.compile(r"```[^\S\n]*\w*[^\S\n]*\n(?P<body>.*?)(?:```|\Z)", re.DOTALL)


def _reference(question: Question) -> tuple[Any] | None:
    """The reference's value, when it is JSON."""
    try:
        return (json_in(question.reference),)
    except (ValueError, RecursionError):
        return None


def _read_schema(path: Path) -> Schema:
    text = text_of(path)
    try:
        return Schema(json.loads(text))
    except BadSchema as why:
        raise SourceError(f"{path} cannot be used as a JSON schema: {why}") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON schema but broken JSON: {json_problem(error)}") from None
