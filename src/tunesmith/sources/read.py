"""One source of the recipe, whatever its kind, as a stream of rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tunesmith.errors import RecipeError
from tunesmith.settings import SourceTable
from tunesmith.sources.example import Example
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.rows import read_rows
from tunesmith.sources.wikisql import read_wikisql


def read_source(source: SourceTable, folder: Path) -> Iterator[Example | Quarantined]:
    """Every row that the source names, at most ``source.limit``; paths start at ``folder``."""
    path = folder / source.path
    if source.kind == "wikisql":
        if source.tables is None:
            raise RecipeError(f'{source.path}: a source of kind "wikisql" needs tables = "…"')
        rows = read_wikisql(path, folder / source.tables)
    elif source.tables is not None:
        raise RecipeError(f'{source.path}: tables goes with kind = "wikisql"')
    else:
        rows = read_rows(path)
    return islice(rows, source.limit)
