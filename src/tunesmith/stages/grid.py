"""The combinations of a sweep: which there are, and the name of each one's folder."""

from __future__ import annotations

import itertools
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith import files
from tunesmith.errors import RecipeError

MOST = 64
"""Runs of one sweep: more are a slip of the keyboard, or need a better plan than trying everything."""
LABEL, NAME = 24, 180
"""Characters of a value in a folder's name, and bytes of the name: file systems take 255."""


@dataclass(frozen=True)
class Grid:
    """Settings by dotted name. ``varied`` have several values; ``fixed`` have one, which is that of every run."""

    varied: dict[str, list[Any]]
    fixed: dict[str, Any]

    @classmethod
    def of(cls, settings: Mapping[str, Sequence[Any]]) -> Grid:
        """Raises `RecipeError` when nothing varies, a setting has no value or one of them twice, there are too many
        combinations, or an export is asked for."""
        for name, values in settings.items():
            _check(name, values)
        varied = {name: list(values) for name, values in settings.items() if len(values) > 1}
        fixed = {name: values[0] for name, values in settings.items() if len(values) == 1}
        if not varied:
            raise RecipeError(
                "nothing varies: give a setting several values, as in --train.lora.rank 4,8,16; `tunesmith run` does "
                "one run"
            )
        count = math.prod(map(len, varied.values()))
        if count > MOST:
            raise RecipeError(f"these are {count:,} runs, and a sweep has at most {MOST}; give fewer values")
        return cls(varied, fixed)

    def combinations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name of the folder, values by setting), the last setting changing fastest."""
        short = short_names(self.varied)
        labels = {name: _labels(values) for name, values in self.varied.items()}
        names = set[str]()
        for places in itertools.product(*(range(len(values)) for values in self.varied.values())):
            picked = dict(zip(self.varied, places, strict=True))
            values = {name: self.varied[name][place] for name, place in picked.items()}
            folder = "_".join(f"{short[name]}-{labels[name][place]}" for name, place in picked.items())
            if len(folder.encode()) > NAME or folder in names:
                folder = f"run-{files.value_hash(values)[:12]}"
            names.add(folder)
            yield folder, values


def _check(name: str, values: Sequence[Any]) -> None:
    if name.split(".")[0] == "export":
        raise RecipeError(f"--{name}: a sweep exports nothing; `tunesmith export` does it with the run that you choose")
    if not values:
        raise RecipeError(f"--{name} has no value")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise RecipeError(f"--{name} has the value {show(value)} twice")


def short_names(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """The last part of each dotted name; more of it where two end alike: "rank", but "data.seed" and "train.seed"."""
    short = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
        alone = (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1)
        short[name] = next(alone, name)
    return short


def show(value: Any) -> str:
    """A value as short as it can be written: 16, 0.0001, true, q_proj,v_proj."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return ",".join(map(show, value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value)


def _labels(values: Sequence[Any]) -> list[str]:
    """Of each value a part of a folder's name that every file system takes, none like another one's: not even where
    capitals are the same as small letters."""
    labels = [_label(value) for value in values]
    if "" in labels or len({label.casefold() for label in labels}) < len(labels):
        return [f"{label}-{files.value_hash(value)[:6]}" for label, value in zip(labels, values, strict=True)]
    return labels


def _label(value: Any) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", show(value)))
    return plain[:LABEL].lstrip(".").rstrip("-.")
