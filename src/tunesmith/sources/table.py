"""What every kind of table is read into: a header, and rows with the line each stands on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row: its cells, or the reason why it has none; ``text`` as it stands in the file, where it is text."""

    line: int | None
    cells: Sequence[Any]
    reason: str = ""
    text: str = ""


class Table(NamedTuple):
    """One sheet or table; ``alone`` when no other is read from this file. Without a header, its rows have reasons.
    ``guess``: the encoding that was guessed for it, if it was."""

    part: str
    header: Sequence[str]
    rows: Iterator[Row]
    alone: bool = True
    guess: str = ""


def is_blank(cells: Sequence[Any]) -> bool:
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)


BROKEN = re.compile("[\ud800-\udfff]")
"""Bytes that are not in the file's encoding, as `csv_file` marks them."""


def clean(text: str) -> str:
    """Fit to be shown and written."""
    return BROKEN.sub("\ufffd", text)
