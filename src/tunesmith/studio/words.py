"""Every text of the studio in the languages it speaks: ``language/<language>/<page>.toml``, one file for a page."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

LANGUAGES = {"en": "English", "zh": "中文"}
"""What each language calls itself."""


class Words:
    """The texts of one language: ``words("home.title")`` is ``title`` of home.toml, with its {places} filled in."""

    def __init__(self, language: str) -> None:
        self.language = language
        folder = resources.files("tunesmith") / "studio" / "language" / language
        self.texts: dict[str, str] = {}
        for file in folder.iterdir():
            page = file.name.removesuffix(".toml")
            for key, text in tomllib.loads(file.read_text("utf-8")).items():
                self.texts[f"{page}.{key}"] = text

    def __call__(self, key: str, /, **values: object) -> str:
        text = self.texts[key]
        return text.format(**values) if values else text

    def page(self, page: str) -> dict[str, str]:
        """All texts of one page without its name in front: what its script says."""
        return {key.split(".", 1)[1]: text for key, text in self.texts.items() if key.startswith(page + ".")}


@cache
def words_of(language: str) -> Words:
    """The texts of one of `LANGUAGES`."""
    return Words(language)


def preferred(accepted: str) -> str:
    """The language of `LANGUAGES` that an Accept-Language header likes best; English where it names none of them."""
    best, quality = "en", 0.0
    for entry in accepted.split(","):
        name, _, q = entry.partition(";")
        language = name.strip().lower().split("-")[0]
        try:
            likes = float(q.strip().removeprefix("q=")) if q else 1.0
        except ValueError:
            continue
        if language in LANGUAGES and likes > quality:
            best, quality = language, likes
    return best
