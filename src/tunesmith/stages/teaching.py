"""The stage "teach", and how its rows become a source of the stage "prepare"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import files
from tunesmith.errors import RecipeError, RunError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import DataSettings, Recipe, SourceTable
from tunesmith.sources.text import hash_of

if TYPE_CHECKING:
    from tunesmith.stages.work import Work

TEACHING = 2
"""Counts up when teaching changes what it writes. What was answered before is in the journal all the same."""


def with_taught(folder: RunFolder, recipe: Recipe) -> Recipe:
    """The recipe with what its teacher wrote as a further source, and what was held out as the test part, unless the
    recipe names one. Raises `RunError` when there is nothing else to read yet."""
    if not recipe.teacher.is_set:
        return recipe
    rows, held_out = taught_files(folder)
    if not rows.exists():
        if not recipe.data.sources:
            raise RunError(
                f"{folder} is not taught yet; `tunesmith teach` asks the teacher, `tunesmith run` does it too"
            )
        return recipe
    data = recipe.data
    split = data.split
    if isinstance(split.test, float) and held_out.stat().st_size:
        split = split.model_copy(update={"test": (_source(held_out, data),)})
    sources = (*data.sources, _source(rows, data))
    return recipe.model_copy(update={"data": data.model_copy(update={"sources": sources, "split": split})})


def _source(path: Path, data: DataSettings) -> SourceTable:
    return SourceTable(path=os.path.relpath(path.absolute(), data.folder), kind="taught")


def taught_files(folder: RunFolder) -> tuple[Path, Path]:
    """Rows, and questions held out."""
    return folder.teacher / "rows.jsonl", folder.teacher / "held-out.jsonl"


def inputs(recipe: Recipe) -> str:
    """Hash of what decides what is taught: not where the same model is, nor how fast it is asked."""
    from tunesmith.teacher.local import gguf_file, gguf_name
    from tunesmith.teacher.prompts import Prompts

    settings = recipe.teacher.model_dump(exclude={"url", "gguf", "key", "parallel", "timeout", "prompts"})
    model = gguf_name(gguf_file(recipe.teacher)) if recipe.teacher.gguf else ""
    return files.value_hash([TEACHING, settings, model, Prompts(recipe.teacher.prompts).hash, _sources(recipe)])


def _sources(recipe: Recipe) -> list[str]:
    from tunesmith.sources.read import paths_of

    start = recipe.folder()
    found = [path for source in recipe.teacher.sources for path in paths_of(source, start)]
    return [f"{os.path.relpath(path, start)} {hash_of(path)}" for path in found]


def teach(work: Work) -> Iterator[Progress]:
    """Ask the teacher for whatever its journal does not answer, and write the rows."""
    from tunesmith.teacher.teach import Teacher

    recipe = work.recipe
    if not recipe.teacher.is_set:
        raise RecipeError('the recipe has no teacher; [teacher] with url = "…" and sources = […] names one')
    teacher = Teacher(recipe.teacher, recipe.folder(), work.folder.teacher, work.stop)
    yield from teacher.run()
    work.stopped = teacher.stopped
    if not work.stopped:
        yield Progress("note", stage="teach", message=_sentence(report(work.folder), work.folder))


def report(folder: RunFolder) -> dict[str, Any]:
    """The account of a run's teacher. Raises `RunError` when there is none yet."""
    try:
        return files.read_json(folder.teacher / "report.json")
    except FileNotFoundError:
        raise RunError(f"{folder} is not taught yet; `tunesmith teach` asks the teacher") from None


def _sentence(found: dict[str, Any], folder: RunFolder) -> str:
    lost = sum(found["quarantined"].values()) + sum(found["dropped"].values())
    where = f"; {lost:,} became no row: {folder.teacher / 'quarantine.jsonl'} says why" if lost else ""
    return f"{found['questions']:,} questions gave {found['rows']:,} rows and {found['held_out']:,} held out{where}"
