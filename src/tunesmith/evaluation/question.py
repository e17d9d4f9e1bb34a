"""What travels through an evaluation: a question, a verdict, and what every task can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunesmith.dataset.split import groups_of
from tunesmith.sources.example import Example


@dataclass(frozen=True)
class Question:
    """What a model is asked, and what is needed to grade its answer.

    messages: the conversation up to where the model answers, as chat templates take it. cluster: what it has in common
    with others (the document it is about, the table): answers to those go wrong together, and statistics must know.
    choices: where there are any, nothing is generated: the answer is the choice that the model finds likeliest.
    limit: tokens that the answer may have; None: as many as the recipe says.
    """

    id: str
    messages: tuple[dict[str, Any], ...]
    reference: str
    cluster: str
    origin: str = ""
    choices: tuple[str, ...] = ()
    limit: int | None = None
    tools: Any = None
    example: Example | None = None
    """The row that it was made of, where it was."""

    @property
    def asked(self) -> str:
        """The last thing that is said before the answer."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Verdict:
    """How good an answer is, from 0 to 1, and why ("same rows", "no SQL", …). ``score`` is None where it could not be
    graded: that is neither right nor wrong, and is counted apart."""

    score: float | None
    reason: str

    @property
    def right(self) -> bool:
        return self.score is not None and self.score >= 0.5


class Task(Protocol):
    """Prepares questions and grades answers; one small file each."""

    name: str
    """Its kind in the recipe, and its key in results.json."""

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        """What is asked, given the test rows that have an answer. Raises `SourceError` when the task cannot be done on
        them: before anything is generated."""
        ...

    def grade(self, question: Question, answer: str) -> Verdict:
        """Never raises for what is in ``answer``."""
        ...


def ask_rows(rows: Sequence[Example]) -> list[Question]:
    """The question of every row as it stands, for the tasks that ask the test rows themselves."""
    return [
        Question(
            row.id, tuple(row.asked), row.answer, cluster, str(row.origin), tools=row.extra.get("tools"), example=row
        )
        for row, cluster in zip(rows, groups_of(rows), strict=True)
    ]
