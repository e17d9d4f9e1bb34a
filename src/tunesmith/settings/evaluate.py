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


def _as_task(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Task = Annotated[LossTask | SqlTaskSettings, Field(discriminator="kind"), BeforeValidator(_as_task)]


class EvaluateSettings(Section):
    tasks: tuple[Task, ...] = (LossTask(),)
    """What is measured on the test rows: "loss", or tables such as {kind = "sql", database = "shop.sql"}."""
    checkpoints: bool = True
    """Measure the loss of every checkpoint, not only of the base and the result."""
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
