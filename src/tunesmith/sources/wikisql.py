"""WikiSQL's own format: questions over one table each, with SQL as numbers instead of text.

``rows`` holds ``{"table_id", "question", "sql": {"sel", "agg", "conds"}}``, one JSON object a line;
``tables`` holds ``{"id", "header", "types", "rows"}``. The abstract SQL becomes SQL that SQLite runs:

    t("home team", "venue" = 'MCG', "crowd")
    How many home teams played at MCG before more than 15500?
    SELECT COUNT("home team") FROM t WHERE "venue" = 'MCG' AND "crowd" > '15500'

Four choices keep it easy for a small model, and all of them are made in this file, for the prompt, the
answer and the database alike:

- The table is always ``t`` and every column is quoted, in the prompt too: to write a column is to copy
  it. (Of the names used, 39 % need quotes in any case; quoting the rest costs 7 tokens a row, and saves
  a list of SQLite's keywords here and a rule to learn for the model.)
- Every literal is quoted too, numbers included. The columns' types make ``'15500'`` a number where the
  column holds numbers, so that the model need not know which these are.
- WikiSQL compares text in lower case. Here the columns ignore case, so a literal can stand as the
  question spells it.
- The prompt shows where in the table the question's words stand (``"venue" = 'MCG'``): "who won at MCG"
  does not say which column holds MCG, and whoever asks a table has it. It looks only at the question and
  the table's cells, never at the query.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.text import NOT_ITS_ENCODING, json_problem

AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
"""WikiSQL's numbering of ``agg``."""

OPERATORS = ("=", ">", "<")
"""WikiSQL's numbering of a condition's operator."""

# A letter or digit of a script that puts spaces between words; Chinese and its neighbours do not.
_WORD = re.compile(r"[^\W\u2e80-\U0010ffff]")

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class BadRow(ValueError):
    """A question that cannot become SQL; its text is the reason."""


@dataclass(frozen=True)
class Table:
    """One table as WikiSQL holds it. ``types`` are ``real`` or ``text``, one for each column."""

    id: str
    header: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def columns(self) -> list[str]:
        """The column names that SQL uses; see `column_names`."""
        return column_names(self.header)

    def mentioned(self, place: int, question: str) -> str | None:
        """The longest cell of column ``place`` that the question mentions, as the question spells it.

        >>> Table("x", ("venue", "crowd"), ("text", "real"), (("mcg", 15.0),)).mentioned(0, "Who won at MCG?")
        'MCG'
        """
        folded, best = question.lower(), ""
        for row in self.rows:
            cell = " ".join(_shown(row[place]).split())
            if len(cell) > len(best) and cell.lower() in folded:  # the quick look first
                best = _spelt(cell, question) or best
        return best or None


class Tables(Mapping[str, Table]):
    """The tables of one file by id. Only their places are kept, so a large file costs little memory.

    Raises SourceError when the file is missing, or a line is not a table of WikiSQL's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with path.open("rb") as file:
                place = 0
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._places[_parse_table(line, Origin(str(path), number)).id] = (place, number)
                    place += len(line)
        except OSError as error:
            raise SourceError(f"Cannot read WikiSQL's tables {path}: {error.strerror}; check the path.") from error

    def __getitem__(self, table_id: str) -> Table:
        place, number = self._places[table_id]
        with self.path.open("rb") as file:
            file.seek(place)
            return _parse_table(file.readline(), Origin(str(self.path), number))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, table_id: object) -> bool:
        return table_id in self._places


def read_wikisql(rows: Path, tables: Path, name: str | None = None) -> Iterator[Example | Quarantined]:
    """Each question as an Example: the table's columns and the question, and SQL that runs on SQLite.

    ``extra["table_id"]`` and ``group`` name the table, so that a split never tears a table apart.
    Lines that cannot be used come back as Quarantined. Raises SourceError when a file cannot be read.
    """
    known = Tables(tables)
    try:
        with rows.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _read_row(line, Origin(name or str(rows), number), known)
    except OSError as error:
        raise SourceError(f"Cannot read WikiSQL's questions {rows}: {error.strerror}; check the path.") from error


def column_names(header: Sequence[str]) -> list[str]:
    """The header as column names: never empty, and no two alike even when case is ignored.

    >>> column_names(["", "No", "no", "date  won"])
    ['column_1', 'No', 'no_2', 'date won']
    """
    names: list[str] = []
    taken: set[str] = set()
    for place, title in enumerate(header, 1):
        wanted = " ".join(title.replace("\0", " ").split()) or f"column_{place}"
        name, count = wanted, 1
        while name.lower() in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name.lower())
        names.append(name)
    return names


def quote_name(name: str) -> str:
    """A column name as SQL: ``"name"``."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A literal as SQL: ``'it''s'``."""
    return "'" + text.replace("'", "''") + "'"


def prompt_for(table: Table, question: str) -> str:
    """What the model is asked: the columns, with the cells that the question mentions, and the question."""
    columns = []
    for place, name in enumerate(table.columns):
        cell = table.mentioned(place, question)
        columns.append(quote_name(name) + (f" = {quote_text(cell)}" if cell else ""))
    return f"t({', '.join(columns)})\n{question}"


def sql_for(table: Table, sql: Mapping[str, Any], question: str) -> str:
    """WikiSQL's abstract SQL as one SELECT. Raises BadRow when it does not fit the table.

    An aggregate over a text column is kept as it is: WikiSQL's rule runs it, and so does SQLite, with
    the same result (MAX by the alphabet, SUM and AVG over the numbers that cells begin with).
    """
    names = [quote_name(name) for name in table.columns]
    try:
        selected = names[_index(sql["sel"], names, "column")]
        aggregate = AGGREGATES[_index(sql["agg"], AGGREGATES, "aggregate")]
        conditions: list[str] = []
        for column, operator, value in sql["conds"]:
            place = _index(column, names, "column")
            sign = OPERATORS[_index(operator, OPERATORS, "operator")]
            literal = _literal(value, table.types[place], question)
            conditions.append(f"{names[place]} {sign} {quote_text(literal)}")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow('"sql" does not have the form {"sel", "agg", "conds": [[column, operator, value]]}') from error
    what = f"{aggregate}({selected})" if aggregate else selected
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {what} FROM t{where}"


def open_table(table: Table) -> sqlite3.Connection:
    """The table as ``t`` in a database of its own, in memory: what `sql_for` writes queries for.

    Text compares without regard to case in any script; SQLite's own NOCASE knows ASCII only, so it is
    replaced on this connection.
    """
    connection = sqlite3.connect(":memory:")
    connection.create_collation("NOCASE", _compare_without_case)
    kinds = ["REAL" if kind == "real" else "TEXT COLLATE NOCASE" for kind in table.types]
    columns = ", ".join(f"{quote_name(name)} {kind}" for name, kind in zip(table.columns, kinds, strict=True))
    connection.execute(f"CREATE TABLE t ({columns})")
    places = ", ".join("?" * len(kinds))
    connection.executemany(f"INSERT INTO t VALUES ({places})", table.rows)
    connection.commit()
    return connection


def _compare_without_case(left: str, right: str) -> int:
    left, right = left.lower(), right.lower()
    return (left > right) - (left < right)


def _read_row(line: bytes, origin: Origin, tables: Tables) -> Example | Quarantined:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise BadRow("the line is not a JSON object")
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise BadRow('"question" is missing or empty')
        table_id, sql = row.get("table_id"), row.get("sql")
        if not isinstance(table_id, str) or table_id not in tables:
            raise BadRow(f"table {table_id!r} is not in {tables.path}")
        if not isinstance(sql, dict):
            raise BadRow('"sql" is missing')
        question = " ".join(question.split())
        table = tables[table_id]
        answer = sql_for(table, sql, question)
    except BadRow as error:
        return Quarantined(origin, str(error), text)
    except UnicodeDecodeError:
        return Quarantined(origin, NOT_ITS_ENCODING, text)
    except json.JSONDecodeError as error:
        return Quarantined(origin, f"broken JSON: {json_problem(error)}", text)
    messages = (Message("user", prompt_for(table, question)), Message("assistant", answer, learn=True))
    return Example(messages, origin, extra={"table_id": table_id}, group=table_id)


def _parse_table(line: bytes, origin: Origin) -> Table:
    try:
        raw = json.loads(line)
        table = Table(raw["id"], tuple(raw["header"]), tuple(raw["types"]), tuple(map(tuple, raw["rows"])))
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f'{origin} is not a table of WikiSQL\'s: give it "id", "header", "types", "rows".') from error
    widths = {len(table.header), len(table.types), *map(len, table.rows)}
    if len(widths) != 1 or not table.header or not all(isinstance(title, str) for title in table.header):
        raise SourceError(f"{origin}: header, types and rows of table {table.id} differ in length; mend the line.")
    return table


def _index(value: Any, choices: Sequence[str], what: str) -> int:
    # Python would take -1 or True for an index.
    if type(value) is not int or not 0 <= value < len(choices):
        raise BadRow(f"{what} {value!r} is not one of 0 to {len(choices) - 1}")
    return value


def _literal(value: Any, kind: str, question: str) -> str:
    """The value as its literal: a plain number for a real column, else as the question spells it."""
    text = str(value)
    if kind == "real":
        # SQLite turns '44851' into a number when the column is one, but not '44,851'.
        number = text.strip().replace(",", "")
        if not _NUMBER.fullmatch(number):
            raise BadRow(f"{text!r} is not a number, but its column holds numbers")
        # Nor digits of other scripts, which two questions hold.
        return number if number.isascii() else repr(float(number))
    return _spelt(text, question) or _spelt(text, question, whole=False) or text


def _shown(cell: Any) -> str:
    """A cell as people write it: 5.0 is 5."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _spelt(text: str, question: str, *, whole: bool = True) -> str | None:
    """``text`` as the question spells it, or None where it does not hold it (as ``whole`` words)."""
    words, folded = text.lower(), question.lower()
    if len(folded) != len(question):  # "İ" becomes two: places must stay the same
        folded = "".join(c.lower() if len(c.lower()) == 1 else c for c in question)
    at = folded.find(words)
    while at >= 0:
        end = at + len(words)
        if not whole or not (_WORD.match(question[at - 1 : at]) or _WORD.match(question[end : end + 1])):
            return question[at:end]
        at = folded.find(words, at + 1)
    return None
