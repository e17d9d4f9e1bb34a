"""``[evaluate]``: what is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from tunesmith.settings.section import Section


class LossTask(Section):
    kind: Literal["loss"] = "loss"


class SqlTaskSettings(Section):
    kind: Literal["sql"] = "sql"
    database: str | None = None
    """An .sql script or an SQLite file that all questions are about."""
    tables: str | None = None
    """Or WikiSQL's tables, one of which each question is about."""

    @model_validator(mode="after")
    def _one_of_them(self) -> SqlTaskSettings:
        if (self.database is None) == (self.tables is None):
            raise PydanticCustomError("sql", 'the task sql needs database = "…" or tables = "…", one of them')
        return self


class TextTaskSettings(Section):
    kind: Literal["exact", "normalised", "contains", "overlap"] = "normalised"
    """"exact": the reference, character by character; "normalised": but for case, spaces, width and marks of
    punctuation; "contains": the reference stands somewhere in the answer; "overlap": the share of words (in Chinese
    of characters) that answer and reference have in common, F1."""


class NumberTaskSettings(Section):
    kind: Literal["number"] = "number"
    tolerance: Annotated[float, Field(ge=0)] = 1e-6
    """How far the answer's last number may be from the reference's, as a share of it."""


class ChoiceTaskSettings(Section):
    kind: Literal["choice"] = "choice"
    path: str
    """A JSONL file of {"question": …, "choices": […], "answer": 0}; the answer is the place, or the choice itself."""


class JsonTaskSettings(Section):
    kind: Literal["json"] = "json"
    schema_file: str | None = None
    """A JSON schema that answers must keep to; empty: being JSON is enough."""


class JudgeTaskSettings(Section):
    kind: Literal["judge"] = "judge"
    url: str
    """The judge's server; it speaks OpenAI's protocol."""
    model: str = ""
    """The judge's name there; empty: the only one that the server has."""
    key: str = ""
    """The environment variable that holds the key, never the key; empty: TUNESMITH_JUDGE_KEY, else OPENAI_API_KEY."""
    parallel: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests under way at once."""


class FunctionTaskSettings(Section):
    kind: Literal["function"] = "function"
    file: str
    """A Python file of yours."""
    name: str = "grade"
    """The function in it: grade(question, answer, reference) gives True, False, or a number from 0 to 1."""


def _as_task(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Task = Annotated[
    LossTask | SqlTaskSettings | TextTaskSettings | NumberTaskSettings | ChoiceTaskSettings | JsonTaskSettings
    | JudgeTaskSettings | FunctionTaskSettings,
    Field(discriminator="kind"), BeforeValidator(_as_task),
]  # fmt: skip


class EvaluateSettings(Section):
    tasks: tuple[Task, ...] = (LossTask(),)
    """What is measured on the test rows: "loss", "normalised", {kind = "sql", database = "shop.sql"} and more:
    docs/evaluation.md lists them."""
    checkpoints: bool = True
    """Measure the loss of every checkpoint, not only of the base and the result."""
    forgetting: bool = True
    """Ask a small general set (sums, common knowledge, instructions, in English and Chinese) before and after."""
    retrieval: Annotated[int, Field(ge=0)] = 0
    """Ask base and tuned once more with so many passages of the documents before each question; 0: not."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest answer that a model may give."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Rows computed at once."""

    @model_validator(mode="after")
    def _each_once(self) -> EvaluateSettings:
        kinds = [task.kind for task in self.tasks]
        if len(set(kinds)) < len(kinds):
            raise PydanticCustomError("tasks", "each kind of task can be measured once")
        return self
