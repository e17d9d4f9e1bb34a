"""Tables of any kind, each row read into an `Example` or put into quarantine, without holding the table in memory."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import sqlite3
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import date, time
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from tunesmith.errors import RecipeError, SourceError
from tunesmith.settings import Column
from tunesmith.sources.documents import check_zip, refuse_binary, refuse_pointer
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.forms import read_row
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.text import SAMPLE, Unreadable, encoding_of, source_errors
from tunesmith.sources.wikisql import column_names, quote_name

SQLITE = frozenset({".sqlite", ".sqlite3", ".db"})
TABLES = frozenset({".csv", ".tsv", ".xlsx", ".parquet"}) | SQLITE

LONGEST = 16 << 20
"""Characters of one row of CSV."""
SHOWN = 2000
"""Characters of a row that quarantine keeps."""
TRIED = 20
"""Rows that must all fail before a table is taken to have no columns that are known."""
LOCKED_SECONDS = 1.0
EXCEL_ROWS = 1 << 20
BATCH = 1000


class Row(NamedTuple):
    """One row: its cells, or the reason why it has none; ``text`` as it stands in the file, where it is text."""

    line: int | None
    cells: Sequence[Any]
    reason: str = ""
    text: str = ""


class Table(NamedTuple):
    """One sheet or table; ``alone`` when no other is read from this file. Without a header, its rows have reasons."""

    part: str
    header: Sequence[str]
    rows: Iterator[Row]
    alone: bool = True


def read_table(path: Path, name: str, columns: Mapping[Column, str], table: str | None,
               query: str | None) -> Iterator[Example | Quarantined]:  # fmt: skip
    """Every row of a table of the kinds in `TABLES`, in order; rows without any value are passed over.

    ``table`` is a sheet or an SQLite table, ``query`` a SELECT for SQLite. Raises `SourceError` when the file
    cannot be opened, when no column is recognised, and for a database that is locked or broken; `RecipeError`
    when ``table`` or ``query`` does not go with the file.
    """
    suffix = path.suffix.lower()
    if query is not None and (suffix not in SQLITE or table is not None):
        raise RecipeError(f"{name}: query goes with an SQLite file, and instead of table")
    if table is not None and suffix not in SQLITE | {".xlsx"}:
        raise RecipeError(f"{name}: table goes with a workbook or an SQLite file")
    try:
        with source_errors(path), path.open("rb") as file:
            refuse_pointer(file.read(64))
        for found in _tables(path, suffix, table, query):
            yield from _examples(found, path, name, columns)
    except Unreadable as reason:
        yield Quarantined(Origin(name), str(reason))


def _tables(path: Path, suffix: str, table: str | None, query: str | None) -> Iterator[Table]:
    if suffix in (".csv", ".tsv"):
        return _csv(path, "\t" if suffix == ".tsv" else "")
    if suffix == ".xlsx":
        return _xlsx(path, table)
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in SQLITE:
        return _sqlite(path, table, query)
    raise SourceError(f"{path} is no table that is known; known are {', '.join(sorted(TABLES))}")


def _examples(table: Table, path: Path, name: str, columns: Mapping[Column, str]) -> Iterator[Example | Quarantined]:
    """The table's rows. Where all would fail in the same way, that is said once, and not by each of them."""
    read = (_example(row, table, name, columns) for row in table.rows if row.reason or not _blank(row.cells))
    first = list(islice(read, TRIED))
    where = f"{path} [{table.part}]" if table.part else str(path)
    if table.header and not any(isinstance(row, Example) for row in first) and not _recognised(table.header, columns):
        problem = (
            f"{where} has no columns that are known; it has {', '.join(map(repr, table.header)) or 'none'}. "
            'Name them: columns = {question = "…", answer = "…"}'
        )
        if table.alone:
            raise SourceError(problem)
        yield Quarantined(Origin(name, part=table.part), problem)
    elif not first:
        yield Quarantined(Origin(name, part=table.part), "it has no rows; fill it or leave it out")
    else:
        yield from chain(first, read)


def _recognised(header: Sequence[str], columns: Mapping[Column, str]) -> bool:
    """Whether rows of this header have a form; what stands in their cells does not matter here."""
    if not set(columns.values()) <= set(header):
        return False
    try:
        read_row(dict.fromkeys(header, "x"), Origin(""), columns)
    except Unreadable as reason:
        return not str(reason).startswith("no known form")
    return True


def _example(row: Row, table: Table, name: str, columns: Mapping[Column, str]) -> Example | Quarantined:
    origin = Origin(name, row.line, table.part)
    cells = dict(zip(table.header, row.cells, strict=False))
    try:
        if row.reason:
            raise Unreadable(row.reason)
        if len(row.cells) != len(table.header):
            raise Unreadable(f"{len(row.cells)} cells where the header has {len(table.header)}; mend the row")
        return read_row({key: _text(_value(cell, key)) for key, cell in cells.items()}, origin, columns)
    except Unreadable as reason:
        text = row.text or (json.dumps(cells, ensure_ascii=False, default=str) if cells else "")
        size = f" (the row has {len(text):,} characters)" if len(text) > SHOWN else ""
        return Quarantined(origin, f"{reason}{size}", _clean(text[:SHOWN]))


def _blank(cells: Sequence[Any]) -> bool:
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)


def _value(cell: Any, key: str) -> Any:
    """A cell as JSON could hold it."""
    if isinstance(cell, str):
        if "\0" in cell:
            raise Unreadable(f"{key!r} holds a zero byte; take it out")
        if not cell.isascii() and _BROKEN.search(cell):
            raise Unreadable(f"{key!r} holds bytes that are not in the file's encoding; save it as UTF-8")
        return cell
    if isinstance(cell, list):
        return [_value(each, key) for each in cell]
    if isinstance(cell, dict):
        return {k: _value(each, key) for k, each in cell.items()}
    if isinstance(cell, bytes):
        raise Unreadable(f"{key!r} holds binary data (a BLOB); leave that column out")
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, date | time):
        return cell.isoformat().replace("T", " ")
    return cell if cell is None or isinstance(cell, bool | int | float) else str(cell)


def _text(cell: Any) -> Any:
    """Numbers are taught as they would stand in CSV; lists and structs keep theirs."""
    return str(cell) if isinstance(cell, bool | int | float) else cell


_BROKEN = re.compile("[\ud800-\udfff]")


def _clean(text: str) -> str:
    return _BROKEN.sub("\ufffd", text)


class _Lines:
    """The physical lines of a text. Those since `begin` can be read again, all but the first."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.number = self._size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._file.readline(LONGEST)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        self._size += len(line)
        if len(line) == LONGEST and not line.endswith(("\n", "\r")):
            while (rest := self._file.readline(LONGEST)) and not rest.endswith(("\n", "\r")):
                pass
        if self._size >= LONGEST:
            raise Unreadable(f"a row of more than {LONGEST >> 20} MB, or a quote that is opened here and never closed")
        return line

    def begin(self) -> None:
        self.taken, self._size = [], 0

    def retreat(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def _csv(path: Path, delimiter: str) -> Iterator[Table]:
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
        refuse_binary(sample, "a table of text")
        encoding = encoding_of(sample)
        delimiter = delimiter or _delimiter(sample.decode(encoding, "replace"))
        file.seek(0)
        codecs.register_error("mark", _mark)
        with io.TextIOWrapper(file, encoding, "mark", newline="") as text:
            lines = _Lines(text)
            csv.field_size_limit(LONGEST)
            records = _records(csv.reader(lines, delimiter=delimiter, strict=True), lines)
            header = next((row for row in records if row.reason or not _blank(row.cells)), None)
            if header is None:
                raise Unreadable("the file is empty; fill it or leave it out")
            if header.reason:
                raise Unreadable(f"the header in line {header.line} cannot be read: {header.reason}")
            yield Table("", column_names([_clean(cell) for cell in header.cells]), records)


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Half a character for bytes that are none, so that their row is told; surrogateescape cannot do UTF-16."""
    return "\udcff", error.args[3]


def _records(reader: Iterator[list[str]], lines: _Lines) -> Iterator[Row]:
    """Rows with the line that each begins on. After a broken one, reading goes on at its second line, so that
    a stray quote costs one row; a table of one column would take that line for a row, and goes on behind."""
    width = 0
    while True:
        lines.begin()
        line, reason, cells = lines.number + 1, "", []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, Unreadable) as error:
            reason = _reason(error)
            if width != 1:
                lines.retreat()
            elif len(lines.taken) > 1:
                reason += f" (lines {line} to {lines.number})"
        width = width or len(cells)
        yield Row(line, cells, reason, "".join(lines.taken).rstrip("\r\n"))


def _reason(error: Exception) -> str:
    if "end of data" in str(error):
        return "a quote is opened here and never closed; close it"
    if "expected after" in str(error):
        return 'a quote stands inside a quoted cell; write it twice ("")'
    return str(error)


def _delimiter(sample: str) -> str:
    """The one of , ; tab | that divides the most rows as it divides the header."""

    def score(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        try:
            widths = [len(row) for row in islice(reader, TRIED) if row]
        except csv.Error:
            return 0, 0
        wide = widths[0] if widths else 0
        return (widths.count(wide), wide) if wide > 1 else (0, 0)

    return max(",;\t|", key=score)


def _quiet(call: Callable[..., Any], *given: Any) -> Any:
    """openpyxl warns of every feature that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*given)


def _xlsx(path: Path, table: str | None) -> Iterator[Table]:
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
            header = next((row for row in rows if row.reason or not _blank(row.cells)), None)
            if header is None or header.reason:
                reason = header.reason if header else "the sheet is empty; fill it or leave it out"
                yield Table(sheet.title, (), iter([Row(header.line if header else None, (), reason)]), alone=False)
            else:
                names = _header(header.cells)
                rows = (row._replace(cells=_fitted(row.cells, len(names))) for row in rows)
                yield Table(sheet.title, names, rows, alone=len(sheets) == 1)


def _header(cells: Sequence[Any]) -> list[str]:
    cells = list(cells)
    while cells and _blank(cells[-1:]):
        cells.pop()
    return column_names(["" if cell is None else str(cell) for cell in cells])


def _fitted(cells: Sequence[Any], width: int) -> Sequence[Any]:
    """As many cells as the header has, and more only where they hold something."""
    fitted = [*cells[:width], *[None] * (width - len(cells)), *(() if _blank(cells[width:]) else cells[width:])]
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
            blank = _blank(cells)
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


def _parquet(path: Path) -> Iterator[Table]:
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise Unreadable("not a Parquet file, whatever its name says; give it the right suffix or leave it out")
    import polars as pl
    from polars.exceptions import PanicException

    def numbered(frames: Iterator[Any]) -> Iterator[Row]:
        number = 0
        try:
            for frame in frames:
                for cells in frame.iter_rows():
                    number += 1
                    yield Row(number, cells)
        except (Exception, PanicException) as error:
            yield Row(number + 1, (), f"the file is broken from here on ({type(error).__name__}); copy it again")

    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        header = frame.collect_schema().names()
        rows = numbered(iter(frame.collect_batches(chunk_size=BATCH, maintain_order=True)))
    except (Exception, PanicException) as error:
        raise Unreadable(f"a Parquet file that cannot be read ({type(error).__name__}); copy it again") from None
    yield Table("", header, rows)


_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def _sqlite(path: Path, table: str | None, query: str | None) -> Iterator[Table]:
    with _database_errors(path, query), closing(_opened(path)) as database:
        if query is None:
            there = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            there = [name for name in there if not name.startswith("sqlite_")]
            if table is None and len(there) == 1:
                table = there[0]
            views = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
            if table is None or table not in there + views:
                what = f"no table {table!r}" if table else f"{len(there)} tables"
                listed = ", ".join(map(repr, there + views)) or "none"
                raise SourceError(f'{path} has {what}; name one with table = "…", of {listed}')
        cursor = database.execute(query if query is not None else f"SELECT * FROM {quote_name(table or '')}")
        if cursor.description is None:
            raise SourceError(f"{path}: the query returns no rows; it must be one SELECT")
        header = column_names([column[0] for column in cursor.description])
        yield Table(table or "query", header, _sqlite_rows(cursor, path, query))


def _sqlite_rows(cursor: sqlite3.Cursor, path: Path, query: str | None) -> Iterator[Row]:
    with _database_errors(path, query):
        for number, cells in enumerate(cursor, 1):
            yield Row(number, cells)


def _opened(path: Path) -> sqlite3.Connection:
    """Nothing can be written, created or attached through this connection."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    database = sqlite3.connect(address, uri=True, timeout=LOCKED_SECONDS)
    database.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
    return database


@contextmanager
def _database_errors(path: Path, query: str | None) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:  # the last for broken names of columns
        if "locked" in str(error) or "busy" in str(error):
            problem = "is locked by another program; close it there, and run the same command again"
        elif query is None or re.search("malformed|not a database|disk|unable to open", str(error)):
            problem = f"is no SQLite database that can be read ({error}); copy it again"
        else:
            problem = f"cannot answer the query ({error}); it must be one SELECT"
        raise SourceError(f"{path} {problem}") from None
