"""A task of the recipe, ready to prepare questions and grade answers."""

from __future__ import annotations

from pathlib import Path

from tunesmith.evaluation.question import Task
from tunesmith.evaluation.tasks.choice import ChoiceTask
from tunesmith.evaluation.tasks.function import FunctionTask
from tunesmith.evaluation.tasks.json_answers import JsonTask
from tunesmith.evaluation.tasks.judge import Judge
from tunesmith.evaluation.tasks.number import NumberTask
from tunesmith.evaluation.tasks.sql import SqlTask
from tunesmith.evaluation.tasks.text import TextTask
from tunesmith.settings.evaluate import (
    ChoiceTaskSettings,
    FunctionTaskSettings,
    JsonTaskSettings,
    JudgeTaskSettings,
    LossTask,
    NumberTaskSettings,
    SqlTaskSettings,
    TextTaskSettings,
)

Graded = (
    SqlTaskSettings | TextTaskSettings | NumberTaskSettings | ChoiceTaskSettings | JsonTaskSettings
    | JudgeTaskSettings | FunctionTaskSettings
)  # fmt: skip
"""Every kind but the loss, which asks nothing."""


def open_task(settings: Graded, folder: Path, evaluation: Path) -> Task | Judge:
    """The task as the recipe names it. A judge compares two answers, and so has ``prefer`` in the place of ``grade``.

    folder: where the recipe's paths begin; evaluation: the run's folder of that name, where a judge's replies are kept.
    Raises `SourceError` for a file that is missing or cannot be used.
    """
    match settings:
        case TextTaskSettings():
            return TextTask(settings)
        case NumberTaskSettings():
            return NumberTask(settings)
        case ChoiceTaskSettings():
            return ChoiceTask(settings, folder)
        case JsonTaskSettings():
            return JsonTask(settings, folder)
        case SqlTaskSettings():
            return open_sql(settings, folder)
        case JudgeTaskSettings():
            return Judge(settings, evaluation / "judge.jsonl")
        case FunctionTaskSettings():
            return FunctionTask(settings, folder)


def open_sql(settings: SqlTaskSettings, folder: Path) -> SqlTask:
    return SqlTask(
        database=folder / settings.database if settings.database else None,
        tables=folder / settings.tables if settings.tables else None,
    )


def files_of(settings: Graded | LossTask, folder: Path) -> list[Path]:
    """The files by which a task asks and grades: when one of them changes, what was measured holds no longer."""
    match settings:
        case SqlTaskSettings():
            names = [settings.database, settings.tables]
        case ChoiceTaskSettings():
            names = [settings.path]
        case JsonTaskSettings():
            names = [settings.schema_file]
        case FunctionTaskSettings():
            names = [settings.file]
        case _:
            names = []
    return [folder / name for name in names if name]
