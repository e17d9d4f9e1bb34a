"""What tasks are given: the test rows that have an answer, and files that the recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, ask_rows
from tunesmith.sources.example import Example
from tunesmith.sources.text import Unreadable, decode, source_errors


def ask_answered(rows: Sequence[Example], kind: str) -> list[Question]:
    """The question of every row that has an answer. Raises `SourceError` when none has."""
    asked = ask_rows([row for row in rows if row.answer.strip()])
    if not asked:
        raise SourceError(
            f'no test row has an answer, by which the task "{kind}" grades; evaluate.tasks can be "loss" or "choice" '
            "for raw text"
        )
    return asked


def text_of(path: Path) -> str:
    """A whole file's text. Raises `SourceError`."""
    with source_errors(path):
        data = path.read_bytes()
    try:
        return decode(data)
    except Unreadable as why:
        raise SourceError(f"{path} cannot be read: {why}") from None
