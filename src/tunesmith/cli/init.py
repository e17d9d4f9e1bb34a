"""`tunesmith init`: a recipe to start from."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import Literal

from tunesmith import files
from tunesmith.errors import RecipeError

Like = Literal["documents", "character", "sql", "teacher"]
CHOICES: dict[Like, str] = {
    "documents": "texts of your own: articles, notes, manuals, a blog",
    "character": "conversations in the voice of someone, or any questions with answers",
    "sql": "questions with the SQL that answers them, and the database",
    "teacher": "a bigger model, which writes questions and answers about your documents or topics",
}


def write_recipe(folder: Path, like: Like) -> Path:
    """A commented recipe.toml in ``folder``. Raises `RecipeError` when one is there already."""
    path = folder / "recipe.toml"
    if path.exists():
        raise RecipeError(f"{path} is there already; edit it, or choose another name")
    template = resources.files("tunesmith.cli") / "recipes" / f"{like}.toml"
    files.write_text(path, template.read_text(encoding="utf-8").format(name=shlex.quote(f"{folder}/recipe.toml")))
    return path
