"""A recipe: read from a file, changed by flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.errors import RecipeError
from tunesmith.settings.cluster import ClusterSettings
from tunesmith.settings.data import DataSettings, ModelSettings
from tunesmith.settings.evaluate import EvaluateSettings
from tunesmith.settings.export import ExportSettings
from tunesmith.settings.faults import sentence
from tunesmith.settings.section import Section, fields_of
from tunesmith.settings.teacher import TeacherSettings
from tunesmith.settings.train import TrainSettings


class Recipe(Section):
    """Everything about one run. Only ``[data] sources`` is required, or a teacher with ``sources``."""

    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()
    cluster: ClusterSettings = ClusterSettings()

    def folder(self) -> Path:
        """Where the paths of sources and tasks start."""
        return Path(self.data.folder)


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, with overrides by dotted name (``{"train.epochs": 3}``).

    Raises `RecipeError` when the file is missing, is not TOML, or holds a setting that is unknown,
    missing or out of range; the message names the nearest right one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}; `tunesmith demo` shows one at work") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder; name the recipe file in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from None
    given = dict(overrides or {})
    if "data.folder" in given:  # named from where one stands, not from where the recipe lies
        given["data.folder"] = str(Path(given["data.folder"]).absolute())
    return make_recipe(values, given, where=str(path), folder=path.parent)


def make_recipe(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None,
                where: str = "the recipe", folder: Path = Path()) -> Recipe:  # fmt: skip
    """A recipe from a nested mapping; ``folder`` is where data.folder and a model's path start."""
    merged = _copy(values)
    for name, value in (overrides or {}).items():
        _put(merged, name.split("."), value)
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(sentence(Recipe, where, error, overrides or {})) from None
    _check_teacher(where, recipe.teacher)
    if not recipe.data.sources and not recipe.teacher.is_set:
        raise RecipeError(f'{where}: data.sources is missing; name your files, as in sources = ["rows.jsonl"]')
    data = recipe.data.model_copy(update={"folder": str((folder / recipe.data.folder).resolve())})
    model = recipe.model
    for start in (folder, Path()):  # a path, if there is one: beside the recipe, or from here
        if model.name != "starter" and (start / model.name).exists():
            model = model.model_copy(update={"name": str((start / model.name).resolve())})
    teacher = recipe.teacher
    for name, start in (("gguf", folder), ("gguf", Path()), ("prompts", folder)):
        path = getattr(teacher, name)
        if path and path != "starter" and (name == "prompts" or (start / path).exists()):
            teacher = teacher.model_copy(update={name: str((start / path).resolve())})
    return recipe.model_copy(update={"data": data, "model": model, "teacher": teacher})


def _check_teacher(where: str, teacher: TeacherSettings) -> None:
    if teacher.is_set and not teacher.sources:
        raise RecipeError(f"{where}: teacher.sources is missing; name the documents, topics or questions to start from")
    if not teacher.is_set and teacher != TeacherSettings():
        raise RecipeError(f"{where}: [teacher] needs a url, or a gguf to serve; it has neither")


def parse_value(text: str) -> Any:
    """A flag's value as TOML would read it; what is no TOML is a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def every_field() -> dict[str, tuple[Any, str]]:
    """Dotted name -> (default, help) of every setting: for help pages, and for the test that none is dead."""
    return fields_of(Recipe)


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    values[path[-1]] = value
