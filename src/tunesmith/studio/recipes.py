"""What the page "new run" asks for, as a recipe: a file that runs the same in a terminal."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import tomli_w

from tunesmith import files
from tunesmith.errors import ModelError, RecipeError, TunesmithError
from tunesmith.hubs.repository import is_hub
from tunesmith.run import RunFolder
from tunesmith.settings import every_field, make_recipe, parse_value
from tunesmith.studio.context import UPLOADS, within
from tunesmith.studio.uploads import source_path

CHOSEN = ("train.epochs", "train.layers", "train.learning_rate", "train.batch", "data.max_tokens")
"""The few settings that matter most; a recipe may have more."""
RESERVED = ("runs", UPLOADS)
LONGEST_NAME = 60
DEPTH, LOOKED_AT = 2, 1000
"""How far down models are looked for, and at how much of each folder: a studio may be started at home."""
UP = "../"
"""From the recipe's folder to the project's."""


@dataclass(frozen=True)
class Draft:
    """A recipe as the page knows it. ``sources`` and a path in ``model`` start at the project's folder; ``settings``
    are by dotted name."""

    name: str
    model: str = "starter"
    sources: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The recipe file, which lies one folder below the project's."""
        given = {name: self.settings.get(name, default) for name, (default, _) in every_field().items()
                 if name in CHOSEN or name in self.settings}  # fmt: skip
        data = {"folder": "..", "sources": list(self.sources)}
        return "\n".join([
            f"# Made on a page; in a terminal it is the same:  tunesmith run {shlex.quote(f'{self.name}/recipe.toml')}",
            *_section("model", {"name": f"{UP}{self.model}" if _is_beside(self.model) else self.model}, given),
            *_section("data", data, given),
            *_section("train", {}, given),
        ]) + "\n"  # fmt: skip

    def check(self, project: Path) -> None:
        """Raises the sentence for what cannot be: a name, a model, files that are not there, a setting."""
        check_name(self.name)
        check_model(project, self.model)
        if not self.sources:
            raise RecipeError("there is nothing to learn from; drop a file, or name a file or folder of the project")
        for source in self.sources:
            if not is_hub(source):
                source_path(project, source)
        make_recipe(tomllib.loads(self.text()), where="the recipe", folder=project / self.name)


def _section(name: str, values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """A table of TOML: values without, settings with their help."""
    yield f"\n[{name}]"
    yield from (tomli_w.dumps({key: value}).strip() for key, value in values.items())
    for setting, (_, help_text) in every_field().items():
        section, _, key = setting.partition(".")
        if section == name and setting in given:
            yield f"# {help_text}"
            yield f"{key} = " + tomli_w.dumps({"value": given[setting]}).strip().removeprefix("value = ")


def read_draft(project: Path, name: str) -> Draft | None:
    """The recipe of that name, if it is one that the page wrote and nobody has changed by hand since."""
    try:
        check_name(name)
        text = within(project, f"{name}/recipe.toml", "it leads out").read_text(encoding="utf-8")
        values = tomllib.loads(text)
        data = values.pop("data")
        draft = Draft(name, values.pop("model")["name"].removeprefix(UP), tuple(data.pop("sources")),
                      dict(_flat({"data": {k: v for k, v in data.items() if k != "folder"}, **values})))  # fmt: skip
        return draft if draft.text() == text else None
    except (TunesmithError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def write_draft(project: Path, draft: Draft) -> Path:
    """Keep it as NAME/recipe.toml. Raises `RecipeError` when there is a recipe of somebody's own, or a run."""
    path = project / draft.name / "recipe.toml"
    own = path.exists() and read_draft(project, draft.name) is None
    taken = own or (path.parent.exists() and not path.exists()) or run_of(project, path).exists
    if taken or path.parent.is_symlink():
        raise RecipeError(f"there is something called {draft.name} in the project already; choose another name")
    files.write_text(path, draft.text())
    return path


def run_of(project: Path, recipe: Path) -> RunFolder:
    """The run folder of a recipe, as `tunesmith run` names it in the project's folder."""
    return RunFolder(project / "runs" / (recipe.parent.name if recipe.stem == "recipe" else recipe.stem))


def parse_settings(form: Mapping[str, str]) -> dict[str, Any]:
    """Settings from a form's fields; those that are empty, or as they are without being set, are left out."""
    known = every_field()
    given = {name: parse_value(text.strip()) for name, text in form.items() if name in known and text.strip()}
    return {name: value for name, value in given.items() if value != known[name][0]}


def help_of(setting: str, language: str) -> str:
    """What a setting means: its own help, or that in another language."""
    return _chinese_help()[setting] if language == "zh" else every_field()[setting][1]


@cache
def _chinese_help() -> dict[str, str]:
    return tomllib.loads((resources.files("tunesmith") / "studio" / "settings_zh.toml").read_text("utf-8"))


def check_name(name: str) -> None:
    """Raises `RecipeError` for a name that cannot be one of a folder, everywhere and beside the others."""
    if not re.fullmatch(r"[^\W_](?:[\w. -]*[\w-])?", name) or len(name.encode()) > LONGEST_NAME:
        raise RecipeError(
            f"{name!r} cannot be a name; take letters, digits, spaces, - and _, at most {LONGEST_NAME} bytes"
            if name else "the run has no name; give it one"
        )  # fmt: skip
    if name.lower() in RESERVED:
        raise RecipeError(f"{name} is the name of a folder that is needed; choose another name")


def free_name(project: Path, name: str = "my-model") -> str:
    """``name``, or with a number where there is one already."""
    number, free = 1, name
    while (project / free).exists() or (project / "runs" / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


@dataclass(frozen=True)
class ModelHere:
    """A model that can be trained: what a recipe calls it, what people do, and how large it is."""

    name: str
    label: str
    kind: str
    """"starter", "file", "folder" or "imported"."""
    parameters: int | None = None


def models_here(project: Path) -> list[ModelHere]:
    """The starter model, model files and folders of the project, and GGUFs that were imported before."""
    from tunesmith.models.find import starter_file
    from tunesmith.models.gguf_import import LINK

    found, starter = [], "-"
    try:
        starter = starter_file().stem
        found.append(ModelHere("starter", "starter", "starter"))
    except ModelError:
        pass
    for path in sorted(_below(project, DEPTH)):
        name = path.relative_to(project).as_posix()
        if path.suffix == ".gguf":
            found.append(ModelHere(name, name, "file"))
        elif path.name == "config.json" and path.parent != project and any(path.parent.glob("*.safetensors")):
            folder = path.parent.relative_to(project).as_posix()
            found.append(ModelHere(folder, folder, "folder", _parameters(path.parent)))
    for path in sorted((files.cache_folder() / "models").glob("[!.]*/config.json")):
        if not path.parent.name.startswith(starter):
            weights = (path.parent / LINK).resolve()
            if not weights.exists():  # the file was taken away since
                continue
            label = f"{weights.stem} · {weights.parent}"  # many are called model.gguf
            found.append(ModelHere(str(path.parent), label, "imported", _parameters(path.parent)))
    return found


def _is_beside(model: str) -> bool:
    """Whether it is a path that starts at the project's folder."""
    return model != "starter" and not is_hub(model) and not model.startswith(("~", "/"))


def check_model(project: Path, name: str) -> None:
    """Raises `ModelError` for a name that is no model: a path, here or elsewhere, must lead to a .gguf file or a folder
    with config.json, so that no other file is ever opened."""
    if name == "starter" or is_hub(name):
        return
    path = project / os.path.expanduser(name)  # noqa: PTH111 (a Path raises for a user that there is not)
    if not name or not ((path.suffix == ".gguf" and path.is_file()) or (path / "config.json").is_file()):
        raise ModelError(
            f"there is no model {name!r}; choose one of the list, or give hf:OWNER/NAME, a .gguf file, or the folder "
            "of a model"
        )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """The files down to that depth, but for runs and what is hidden; of a huge folder not all."""
    try:
        entries = list(islice(os.scandir(folder), LOOKED_AT))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "runs":
            continue
        if not entry.is_dir():
            yield Path(entry.path)
        elif depth:
            yield from _below(Path(entry.path), depth - 1)


def _parameters(folder: Path) -> int | None:
    from tunesmith.models.architecture import read_architecture

    try:
        return read_architecture(folder).parameters
    except TunesmithError:
        return None
