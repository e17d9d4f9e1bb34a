"""Folders whose files are divided already, into rows to train and rows to measure on: how to use them as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tunesmith.dataset.split import PARTS, Part
from tunesmith.settings import DataSettings
from tunesmith.sources.folder import walk
from tunesmith.sources.quarantine import Quarantined
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
        for folder, found in _divided(Path(data.folder) / source.path, source.path):
            others = [other.path for other in data.sources[:place] + data.sources[place + 1 :]]
            lines = [f"[data] sources = {_list([*found['train'], *others])}"]
            kept = " and ".join(f"{part} = {_list(found[part])}" for part in PARTS[1:] if found[part])
            yield (
                f"the files of {folder} are named as divided already, and were put together and divided anew; "
                f"to use them as they are, write {lines[0]} and [data.split] {kept}"
            )


def _list(paths: list[str]) -> str:
    return json.dumps(paths[:SHOWN], ensure_ascii=False)


def _divided(path: Path, name: str) -> Iterator[tuple[str, dict[Part, list[str]]]]:
    """Every folder in a source whose files with rows are named for parts, and these files as the recipe would name
    them."""
    folders: dict[str, dict[Part, list[str]]] = {}
    for item in walk(path, name) if path.is_dir() else ():
        if isinstance(item, Quarantined):
            continue
        file = PurePosixPath(item[1])
        part: Part | None = next((part for part in PARTS if _NAMED[part].fullmatch(file.stem)), None)
        if part and file.suffix.lower() in {*ROWS, *TABLES}:
            folders.setdefault(str(file.parent), {"train": [], "valid": [], "test": []})[part].append(str(file))
    yield from (
        (folder, parts) for folder, parts in folders.items() if parts["train"] and parts["valid"] + parts["test"]
    )
