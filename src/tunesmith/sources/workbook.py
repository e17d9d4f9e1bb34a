"""Excel's sheets, streamed, with the values of merged cells where they belong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.sources.documents import check_zip
from tunesmith.sources.table import Row, Table, is_blank
from tunesmith.sources.text import Unreadable
from tunesmith.sources.wikisql import column_names

EXCEL_ROWS = 1 << 20


def _quiet(call: Callable[..., Any], *given: Any) -> Any:
    """openpyxl warns of every feature that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*given)


def read_workbook(path: Path, table: str | None) -> Iterator[Table]:
    """Every sheet, or the one named. Raises `Unreadable`, and `SourceError` when there is no such sheet."""
    check_zip(path, ".xlsx")
    from openpyxl import load_workbook

    with path.open("rb") as file:
        try:
            book = _quiet(lambda: load_workbook(file, read_only=True, data_only=True, keep_links=False))
            sheets = [sheet for sheet in book.worksheets if table in (None, sheet.title)]
            titles = [sheet.title for sheet in book.worksheets]
        except Exception as error:
            raise Unreadable(f"a workbook that cannot be read ({type(error).__name__}); save it again") from None
        if not sheets:
            raise SourceError(f"{path} has no sheet {table!r}; it has {', '.join(map(repr, titles)) or 'none'}")
        for sheet in sheets:
            rows = _sheet_rows(sheet)
            header = next((row for row in rows if row.reason or not is_blank(row.cells)), None)
            if header is None or header.reason:
                reason = header.reason if header else "the sheet is empty; fill it or leave it out"
                yield Table(sheet.title, (), iter([Row(header.line if header else None, (), reason)]), alone=False)
            else:
                names = _header(header.cells)
                rows = (row._replace(cells=_fitted(row.cells, len(names))) for row in rows)
                yield Table(sheet.title, names, rows, alone=len(sheets) == 1)


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
        merged = _merged(sheet)
        sheet.reset_dimensions()  # what a file says of its size is often wrong
        rows = sheet.iter_rows(values_only=True)
        while (cells := _quiet(next, rows, None)) is not None and number < EXCEL_ROWS:
            number += 1
            cells = list(cells)
            blank = is_blank(cells)
            for column, last in merged.get(number, ()):
                held[column] = last, cells[column] if column < len(cells) else None
            for column, (last, value) in list(held.items()):
                if number > last:
                    del held[column]
                elif not blank:
                    cells.extend([None] * (column + 1 - len(cells)))
                    cells[column] = value if cells[column] is None else cells[column]
            yield Row(number, cells)
    except Exception as error:
        yield Row(number + 1, (), f"the sheet is broken from here on ({type(error).__name__}); save it again")


_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^<>]*?\bref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"')


def _merged(sheet: Any) -> dict[int, list[tuple[int, int]]]:
    """First row -> (column from 0, last row) of the cells merged downwards. They stand behind all rows in the
    file, and openpyxl knows them only after loading it whole."""
    from openpyxl.utils.cell import column_index_from_string

    found: dict[int, list[tuple[int, int]]] = {}
    with sheet._get_source() as source:
        tail = b""
        while chunk := source.read(1 << 20):
            text = tail + chunk
            done = 0
            for cell in _MERGED.finditer(text):
                column = column_index_from_string(cell[1].decode()) - 1
                found.setdefault(int(cell[2]), []).append((column, int(cell[3])))
                done = cell.end()
            tail = text[max(done, len(text) - 200) :]
    return found
