"""Excel's sheets, streamed, with the values of merged cells where they belong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, time
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.sources.documents import check_zip
from tunesmith.sources.table import Row, Table, is_blank, with_header
from tunesmith.sources.text import Unreadable
from tunesmith.sources.wikisql import column_names

EXCEL_ROWS = 1 << 20


def _quiet(call: Callable[..., Any], *given: Any) -> Any:
    """openpyxl warns of every feature that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*given)


def read_workbook(path: Path, table: str | None, is_known: Callable[[list[str]], bool]) -> Iterator[Table]:
    """Every sheet that is not hidden, or the one named; ``is_known`` knows a header. Raises `Unreadable`, and
    `SourceError` when there is no such sheet."""
    check_zip(path, ".xlsx")
    from openpyxl import load_workbook

    with path.open("rb") as file:
        try:
            book = _quiet(lambda: load_workbook(file, read_only=True, data_only=True, keep_links=False))
            sheets = [sheet for sheet in book.worksheets if table in (None, sheet.title)]
            titles = [sheet.title for sheet in book.worksheets]
        except Exception:
            raise Unreadable("a workbook that cannot be read; save it again in Excel") from None
        if not sheets:
            raise SourceError(f"{path} has no sheet {table!r}; it has {', '.join(map(repr, titles)) or 'none'}")
        seen = [sheet for sheet in sheets if table or sheet.sheet_state == "visible"]
        for sheet in sheets:
            if sheet not in seen:
                reason = 'the sheet is hidden, and is not read; show it in Excel, or name it with table = "…"'
                yield Table(sheet.title, (), iter([Row(None, (), reason)]), alone=False)
                continue
            header, rows = with_header(_sheet_rows(sheet), is_known)
            if header is None or header.reason:
                reason = header.reason if header else "the sheet is empty; fill it or leave it out"
                yield Table(sheet.title, (), iter([Row(header.line if header else None, (), reason)]), alone=False)
            else:
                names = _header(header.cells)
                rows = (row if row.reason else row._replace(cells=_fitted(row.cells, len(names))) for row in rows)
                yield Table(sheet.title, names, rows, alone=len(seen) == 1)


def _header(cells: Sequence[Any]) -> list[str]:
    cells = list(cells)
    while cells and is_blank(cells[-1:]):
        cells.pop()
    return column_names(["" if cell is None else str(cell) for cell in cells])


def _fitted(cells: Sequence[Any], width: int) -> Sequence[Any]:
    """As many cells as the header has, and more only where they hold something."""
    fitted = [*cells[:width], *[None] * (width - len(cells)), *(() if is_blank(cells[width:]) else cells[width:])]
    return ["" if cell is None else cell for cell in fitted]


def _sheet_rows(sheet: Any) -> Iterator[Row]:
    """Rows by Excel's numbers. The cells of a merged column all have the value of the topmost."""
    number = 0
    held: dict[int, tuple[int, Any]] = {}
    try:
        merged, uncounted = _merged_and_uncounted(sheet)
        sheet.reset_dimensions()  # what a file says of its size is often wrong
        rows = sheet.iter_rows()
        while (cells := _quiet(next, rows, None)) is not None and number < EXCEL_ROWS:
            number += 1
            cells = [_shown(cell) for cell in cells]
            blank = is_blank(cells)
            for column, last in merged.get(number, ()):
                held[column] = last, cells[column] if column < len(cells) else None
            for column, (last, value) in list(held.items()):
                if number > last:
                    del held[column]
                elif not blank:
                    cells.extend([None] * (column + 1 - len(cells)))
                    cells[column] = value if cells[column] is None else cells[column]
            formula = uncounted.get(number)
            reason = f"the cell {formula} holds a formula without its value; open the file in Excel and save it"
            yield Row(number, cells, reason if formula else "")
    except Exception:
        yield Row(number + 1, (), "the sheet is broken from here on; save it again in Excel")


def _shown(cell: Any) -> Any:
    """The value; a date as a date, where openpyxl has midnight of it; the line break that Excel spells out as one."""
    from openpyxl.styles.numbers import is_datetime

    value = cell.value
    if isinstance(value, datetime) and value.time() == time.min and is_datetime(cell.number_format) == "date":
        return value.date()
    return value.replace("_x000D_", "\r") if isinstance(value, str) else value


_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^<>]*?\bref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"')
_UNCOUNTED = re.compile(
    rb"<(?:\w+:)?c\b([^<>]*)>\s*<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<>]*</(?:\w+:)?f>)\s*"  # a formula
    rb"(?:<(?:\w+:)?v\s*/>\s*|<(?:\w+:)?v>\s*</(?:\w+:)?v>\s*)?</(?:\w+:)?c>"  # and no value behind it
)
_PLACE = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')
_LONGEST_FORMULA = 20_000
"""Bytes: Excel allows 8,192 characters."""


def _merged_and_uncounted(sheet: Any) -> tuple[dict[int, list[tuple[int, int]]], dict[int, str]]:
    """First row -> (column from 0, last row) of the cells merged downwards; row -> its first formula that nobody
    counted. The former stand behind all rows in the file, and openpyxl cannot tell the latter from empty cells."""
    from openpyxl.utils.cell import column_index_from_string

    merged: dict[int, list[tuple[int, int]]] = {}
    uncounted: dict[int, str] = {}
    with sheet._get_source() as source:
        tail = b""
        while chunk := source.read(1 << 20):
            text = tail + chunk
            done = 0
            for cell in _MERGED.finditer(text):
                column = column_index_from_string(cell[1].decode()) - 1
                merged.setdefault(int(cell[2]), []).append((column, int(cell[3])))
                done = cell.end()
            for cell in _UNCOUNTED.finditer(text):
                place = _PLACE.search(cell[1])
                if place and b't="str"' not in cell[1]:  # that is a formula whose value is an empty text
                    uncounted.setdefault(int(place[2]), (place[1] + place[2]).decode())
                done = max(done, cell.end())
            tail = text[max(done, len(text) - _LONGEST_FORMULA) :]
    return merged, uncounted
