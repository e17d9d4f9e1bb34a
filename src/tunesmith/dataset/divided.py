"""Folders whose files are divided already, into rows to train and rows to measure on: how to use them as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from tunesmith.dataset.split import PARTS, Part
from tunesmith.settings import DataSettings
from tunesmith.sources.read import ROWS
from tunesmith.sources.tables import TABLES

_NAMED: dict[Part, re.Pattern[str]] = {
    "train": re.compile(r"(?:train|training|训练集?)(?:[-_.].*)?", re.IGNORECASE),
    "valid": re.compile(r"(?:valid|validation|val|dev|eval|验证集?|开发集?)(?:[-_.].*)?", re.IGNORECASE),
    "test": re.compile(r"(?:test|测试集?)(?:[-_.].*)?", re.IGNORECASE),
}
"""How people name such files."""
SHOWN = 20
"""Files of one part that are written out."""


def hints(data: DataSettings) -> Iterator[str]:
    """For each such folder the lines of the recipe that keep its files apart; none where the recipe names files to
    measure on."""
    if isinstance(data.split.valid, tuple) or isinstance(data.split.test, tuple):
        return
    for place, source in enumerate(data.sources):
        found = _parts(Path(data.folder) / source.path, source.path)
        if found["train"] and (found["valid"] or found["test"]):
            others = [other.path for other in data.sources[:place] + data.sources[place + 1 :]]
            lines = [f"[data] sources = {_list([*found['train'], *others])}"]
            kept = " and ".join(f"{part} = {_list(found[part])}" for part in PARTS[1:] if found[part])
            yield (
                f"the files of {source.path} are named as divided already, and were put together and divided anew; "
                f"to use them as they are, write {lines[0]} and [data.split] {kept}"
            )


def _list(paths: list[str]) -> str:
    return json.dumps(paths[:SHOWN], ensure_ascii=False)


def _parts(folder: Path, name: str) -> dict[Part, list[str]]:
    """The files with rows that are named for each part, as the recipe would name them."""
    found: dict[Part, list[str]] = {"train": [], "valid": [], "test": []}
    try:
        there = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return found
    for path in there:
        part: Part | None = next((part for part in PARTS if _NAMED[part].fullmatch(path.stem)), None)
        if part and path.suffix.lower() in {*ROWS, *TABLES} and path.is_file():
            found[part].append((PurePath(name) / path.name).as_posix())
    return found
