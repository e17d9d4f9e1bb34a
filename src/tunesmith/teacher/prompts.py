"""The prompts: text files of this package, each of which a person may replace with one of the same name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import RecipeError
from tunesmith.files import value_hash

Name = Literal["passage", "topic", "answer", "follow-up", "reword", "judge", "again"]
Language = Literal["en", "zh"]


class Prompts:
    """Every prompt in both languages, those in ``folder`` first. They are Jinja templates, run in a sandbox.

    Raises `RecipeError` when a file there is not a prompt, or is no template.
    """

    def __init__(self, folder: str = "") -> None:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        package = resources.files("tunesmith.teacher") / "prompts"
        texts = {
            file.name: file.read_text(encoding="utf-8") for file in package.iterdir() if file.name.endswith(".txt")
        }
        texts |= _own(folder, sorted(texts)) if folder else {}
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self._folder, self._templates = folder, {}
        for name, text in texts.items():
            try:
                self._templates[name] = environment.from_string(text)
            except TemplateError as error:
                raise RecipeError(f"{Path(folder) / name} is no template: {error}") from None
        self.hash = value_hash(texts)
        self.count = len(texts)

    def __call__(self, name: Name, language: Language, **values: Any) -> str:
        """The prompt with its blanks filled in. Raises `RecipeError` when it wants what it does not get."""
        from jinja2 import TemplateError

        file = f"{name}.{language}.txt"
        try:
            return self._templates[file].render(**values).strip()
        except (TemplateError, TypeError, ValueError) as error:
            place = Path(self._folder) / file if self._folder else file
            raise RecipeError(f"{place} cannot be filled in: {error}; it gets {', '.join(sorted(values))}") from None


def _own(folder: str, known: list[str]) -> dict[str, str]:
    place = Path(folder)
    if not place.is_dir():
        raise RecipeError(f"teacher.prompts: there is no folder {folder}")
    found = [path for path in sorted(place.iterdir()) if path.suffix == ".txt"]
    if not found:
        raise RecipeError(f"teacher.prompts: {folder} holds no prompt; files may be called {', '.join(known)}")
    for path in found:
        if path.name not in known:
            raise RecipeError(f"{path} is no prompt; files may be called {', '.join(known)}")
    try:
        return {path.name: path.read_text(encoding="utf-8-sig") for path in found}
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"teacher.prompts: {folder} cannot be read as UTF-8 ({error})") from None
