"""What every kind of table is read into: a header, and rows with the line each stands on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
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


LOOKED = 10
"""Rows, blank ones apart, among which the header is looked for."""
LONGEST_NAME = 60
"""Characters of a column's name."""


def with_header(rows: Iterator[Row], is_known: Callable[[list[str]], bool]) -> tuple[Row | None, Iterator[Row]]:
    """The header and all other rows: the first in which every column has a name and ``is_known`` knows the names, else
    the first row. Titles above it have the reason why they are not read."""
    first = list(islice((row for row in rows if row.reason or not is_blank(row.cells)), LOOKED))
    width = max((_width(row.cells) for row in first), default=0)
    at = next((i for i, row in enumerate(first) if _names_all(row, width) and is_known(list(row.cells[:width]))), 0)
    if not first or first[0].reason:
        return (first[0] if first else None), chain(first[1:], rows)
    reason = f"a title above the header, which was found in row {first[at].line}; it is not read"
    above = [row._replace(cells=(), reason=row.reason or reason, text=row.text or _told(row)) for row in first[:at]]
    return first[at], chain(above, first[at + 1 :], rows)


def _told(row: Row) -> str:
    """The cells of a row that has no columns yet."""
    return "\t".join(str(cell) for cell in row.cells if not is_blank([cell]))


def _width(cells: Sequence[Any]) -> int:
    return max((place for place, cell in enumerate(cells, 1) if not is_blank([cell])), default=0)


def _names_all(row: Row, width: int) -> bool:
    names = row.cells[:width]
    return len(names) == width and all(isinstance(n, str) and n.strip() and len(n) <= LONGEST_NAME for n in names)


BROKEN = re.compile("[\ud800-\udfff]")
"""Bytes that are not in the file's encoding, as `csv_file` marks them."""


def clean(text: str) -> str:
    """Fit to be shown and written."""
    return BROKEN.sub("\ufffd", text)
