"""Tables of any kind, each row read into an `Example` or put into quarantine, without holding the table in memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, time
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunesmith.errors import RecipeError, SourceError
from tunesmith.settings import Column
from tunesmith.sources.arrays import Form
from tunesmith.sources.columns import plan_of
from tunesmith.sources.csv_file import read_csv
from tunesmith.sources.database import read_database
from tunesmith.sources.documents import beginning, refuse_pointer
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.forms import read_row, with_notes
from tunesmith.sources.parquet import read_parquet
from tunesmith.sources.quarantine import SHOWN, Quarantined
from tunesmith.sources.table import BROKEN, LOOKED, Row, Table, clean, is_blank
from tunesmith.sources.text import Unreadable, guess_note, source_errors
from tunesmith.sources.workbook import read_workbook

SQLITE = frozenset({".sqlite", ".sqlite3", ".db"})
TITLED = frozenset({".csv", ".tsv", ".xlsx"})
"""Above the header of these, titles may stand."""
TABLES = TITLED | SQLITE | {".parquet"}

TRIED = 20
"""Rows that must all fail before a table is taken to have no columns that are known."""


def read_table(path: Path, name: str, columns: Mapping[Column, str], table: str | None, query: str | None,
               form: Form | None = None) -> Iterator[Example | Quarantined]:  # fmt: skip
    """Every row of a table of the kinds in `TABLES`, in order; rows without any value are passed over.

    ``table`` is a sheet or an SQLite table, ``query`` a SELECT for SQLite; ``form`` reads rows otherwise than
    `read_row` does, and then a table of one column, which is a list, needs no header. Raises `SourceError` when the
    file cannot be opened, when no column is recognised, and for a database that is locked or broken; `RecipeError`
    when ``table`` or ``query`` does not go with the file.
    """
    suffix = path.suffix.lower()
    if query is not None and (suffix not in SQLITE or table is not None):
        raise RecipeError(f"{name}: query goes with an SQLite file, and instead of table")
    if table is not None and suffix not in SQLITE | {".xlsx"}:
        raise RecipeError(f"{name}: table goes with a workbook or an SQLite file")
    read = form or partial(read_row, columns=columns)
    is_known = partial(_recognised, columns=columns, form=read)
    try:
        with source_errors(path), path.open("rb") as file:
            refuse_pointer(file.read(64))
        for found in _tables(path, suffix, table, query, is_known):
            if form and not columns and suffix in TITLED and len(found.header) == 1:
                found = _list(found, is_known(list(found.header)))
            yield from _examples(found, path, name, columns, read)
    except Unreadable as reason:
        yield Quarantined(Origin(name), str(reason), beginning(path))


def _tables(
    path: Path, suffix: str, table: str | None, query: str | None, is_known: Callable[[list[str]], bool]
) -> Iterator[Table]:
    if suffix in (".csv", ".tsv"):
        return read_csv(path, "\t" if suffix == ".tsv" else "", is_known)
    if suffix == ".xlsx":
        return read_workbook(path, table, is_known)
    if suffix == ".parquet":
        return read_parquet(path)
    if suffix in SQLITE:
        return read_database(path, table, query)
    raise SourceError(f"{path} is no table that is known; known are {', '.join(sorted(TABLES))}")


def _list(table: Table, is_headed: bool) -> Table:
    """A table of one column: what stands where the header should be, and is none, is a row; and a comma divides nothing
    where there are no quotation marks."""
    rows = map(_undivided, table.rows)
    if is_headed:
        return table._replace(rows=rows)
    return table._replace(header=["question"], rows=chain([Row(1, table.header)], rows))


def _undivided(row: Row) -> Row:
    return row._replace(cells=[row.text]) if len(row.cells) > 1 and row.text and '"' not in row.text else row


def _examples(
    table: Table, path: Path, name: str, columns: Mapping[Column, str], form: Form
) -> Iterator[Example | Quarantined]:
    """The table's rows. Where all would fail in the same way, that is said once, and not by each of them."""
    notes = list(_notes(table, columns))
    rows = (row for row in table.rows if row.reason or not is_blank(row.cells))
    read = (_example(row, table, name, columns, notes, form) for row in rows)
    first = list(islice(read, TRIED))
    failed = not any(isinstance(row, Example) for row in first)
    if table.header and failed and not _recognised(table.header, columns, form):
        problem = (
            f"has no columns that are known; it has {', '.join(map(repr, table.header)) or 'none'}; "
            'name them with columns = {question = "…", answer = "…"}'
            + (f"; the header is looked for in the first {LOOKED} rows" if path.suffix.lower() in TITLED else "")
        )
        if table.alone:
            raise SourceError(f"{path} [{table.part}] {problem}" if table.part else f"{path} {problem}")
        yield Quarantined(Origin(name, part=table.part), f"the sheet {problem}")
    elif not first:
        yield Quarantined(Origin(name, part=table.part), "the table has no rows; fill it or leave it out")
    else:
        yield from chain(first, read)


def _recognised(header: Sequence[str], columns: Mapping[Column, str], form: Form) -> bool:
    """Whether rows of this header have a form; what stands in their cells does not matter here."""
    if not set(columns.values()) <= set(header):
        return False
    try:
        form(dict.fromkeys(header, "x"), Origin(""))
    except Unreadable as reason:
        return not str(reason).startswith("no known form")
    return True


def _notes(table: Table, columns: Mapping[Column, str]) -> Iterator[str]:
    """What every row of the table says: that its encoding was guessed, and which column of several alike is used."""
    if table.guess:
        yield guess_note(table.guess)
    for key in plan_of(dict.fromkeys(table.header, ""), columns).keys.values():
        others = [name for name in table.header if re.fullmatch(rf"{re.escape(key)}_\d+", name, re.IGNORECASE)]
        if others:
            listed = " and ".join(f'"{name}"' for name in (key, *others))
            yield f"of the columns {listed} the first alone is used; take the others out, or name another in columns"


def _example(
    row: Row, table: Table, name: str, columns: Mapping[Column, str], notes: Sequence[str], form: Form
) -> Example | Quarantined:
    origin = Origin(name, row.line, table.part)
    cells = dict(zip(table.header, row.cells, strict=False))
    try:
        if row.reason:
            raise Unreadable(row.reason)
        if len(row.cells) != len(table.header):
            cells_there = "1 cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
            raise Unreadable(f"{cells_there} where the header has {len(table.header)}; mend the row")
        values = {key: _text(_value(cell, key)) for key, cell in cells.items()}
        _refuse_errors(values, columns)
        example = form(values, origin)
        return with_notes(example, notes) if notes else example
    except Unreadable as reason:
        whole = cells if len(cells) == len(row.cells) else row.cells  # not without what stands behind the header's end
        text = row.text or (json.dumps(whole, ensure_ascii=False, default=str) if whole else "")
        size = f" (the row has {len(text):,} characters)" if len(text) > SHOWN else ""
        return Quarantined(origin, f"{reason}{size}", clean(text[:SHOWN]))


ERRORS = frozenset(
    {"#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!", "#GETTING_DATA"}
)
"""What Excel shows, and writes into CSV, where a formula gave no value."""


def _refuse_errors(row: dict[str, Any], columns: Mapping[Column, str]) -> None:
    """Raises `Unreadable` where a cell that is used holds an error and nothing else: it would be learned as text."""
    failed = [key for key, cell in row.items() if isinstance(cell, str) and cell[:1] == "#" and cell.strip() in ERRORS]
    if failed:
        used = plan_of(row, columns).keys.values()
        for key in failed:
            if key in used:
                raise Unreadable(f"{key!r} holds the error {row[key]!r} of Excel; mend the formula or write the value")


def _value(cell: Any, key: str) -> Any:
    """A cell as JSON could hold it."""
    if isinstance(cell, str):
        if "\0" in cell:
            raise Unreadable(f"{key!r} holds a zero byte; take it out")
        if not cell.isascii() and BROKEN.search(cell):
            raise Unreadable(f"{key!r} holds bytes that are not in the file's encoding; save it as UTF-8")
        return cell.replace("\r\n", "\n").replace("\r", "\n") if "\r" in cell else cell
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
