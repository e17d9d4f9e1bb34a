"""Execution accuracy: does the SQL that a model wrote return the rows that the gold SQL returns?

What a model wrote is run, so it is run as a stranger's: read-only, SELECT only, two seconds at most.
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import ask_answered
from tunesmith.sources.example import Example
from tunesmith.sources.wikisql import Tables, open_table

SECONDS = 2.0
"""How long one query may run."""

MAX_ROWS = 10_000
"""How many rows of a result are compared; a gold query that returns more is an error in the data."""

_MAX_SIZE = 32_000_000  # characters and cells of a result, so that few wide rows cannot fill the memory
_HEAP_BYTES = 512_000_000
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_LIMITS = {
    # Longest text or blob that a query may make: SQLite's own billion would be a gigabyte at once.
    # replace() and printf() take its square, and do not stop for the clock.
    sqlite3.SQLITE_LIMIT_LENGTH: 250_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    # LIKE does not stop for the clock, and takes text times pattern.
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

Row = tuple[Any, ...]


class QueryFailed(Exception):
    """A query was refused, failed or took too long; the text is the verdict's reason."""


class ResultTooLarge(QueryFailed):
    """A query returns more than is compared."""


class SqlTask:
    """Grades answers on one database, or each on its own WikiSQL table.

    ``database`` is a script (``.sql``) or an SQLite file; ``tables`` is WikiSQL's ``tables.jsonl``, where
    ``extra["table_id"]`` names the example's table. Give one of them. Raises SourceError when it cannot
    be read. Use a task in the thread that made it: SQLite's connections stay in theirs.
    """

    name = "sql"

    def __init__(self, *, database: Path | None = None, tables: Path | None = None) -> None:
        if (database is None) == (tables is None):
            raise SourceError('An SQL task needs either "database" or "tables": give one of them.')
        self._runner_for: Callable[[Question], Runner]
        if tables is not None:
            self._runner_for = RunnerPerTable(Tables(tables)).find
        elif database is not None:
            runner = Runner(_open_database(database))
            self._runner_for = lambda _: runner

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        """Raises SourceError for a reference that does not run: before hours of generating."""
        asked = ask_answered(rows, self.name)
        for question in asked:
            self._gold(question)
        return asked

    def grade(self, question: Question, answer: str) -> Verdict:
        """Whether ``answer`` returns the rows that the reference returns, in whatever order.

        Columns count in order, text exactly, numbers within 1e-9; nothing equals nothing.
        """
        gold = self._gold(question)
        try:
            rows = self._runner_for(question).rows(extract_sql(answer))
        except ResultTooLarge:
            return Verdict(0.0, "different rows")
        except QueryFailed as error:
            return Verdict(0.0, str(error))
        return Verdict(1.0, "same rows") if same_rows(gold, rows) else Verdict(0.0, "different rows")

    def _gold(self, question: Question) -> list[Row]:
        """The rows of the reference. Raises SourceError."""
        runner = self._runner_for(question)
        try:
            return runner.rows(extract_sql(question.reference))
        except QueryFailed as error:
            raise SourceError(f"{question.origin}: the gold SQL fails ({error}); mend or remove the row.") from error


def extract_sql(answer: str) -> str:
    """The query in an answer: its first fenced block if there is one, else the first SELECT or WITH, up
    to a semicolon, an empty line or the end. Raises QueryFailed("no SQL") or ("not a SELECT")."""
    fenced = _FENCE.search(answer)
    text = fenced["body"] if fenced else answer
    if _CHANGES.match(text):
        raise QueryFailed("not a SELECT")
    start = _LINE_START.search(text) or _CAPITALS.search(text) or _ANYWHERE.search(text)
    if not start:
        raise QueryFailed("no SQL")
    body = text[start.start() :]
    end = next((m.start() for m in _PIECES.finditer(body) if m["end"] is not None), len(body))
    return body[:end].strip()


_FENCE = re.compile(r"```[^\S\n]*(?:\w+[^\S\n]*\n|\n)?(?P<body>.*?)(?:```|\Z)", re.DOTALL)
_QUERY = r'(?:SELECT\b|WITH\s+(?:RECURSIVE\s+)?[\w"]+\s*(?:\([^)]*\)\s*)?AS\b)'
_LINE_START = re.compile(rf"^[^\S\n]*(?={_QUERY})", re.IGNORECASE | re.MULTILINE)
_CAPITALS = re.compile(rf"\b{_QUERY}")
_ANYWHERE = re.compile(rf"\b{_QUERY}", re.IGNORECASE)
# Prose may begin with "Update" or "Create" too, hence the second word.
_CHANGES = re.compile(
    r"\s*(?:INSERT\s+(?:OR|INTO)|REPLACE\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|PRAGMA|ATTACH|DETACH|VACUUM|EXPLAIN|"
    r"(?:CREATE|DROP|ALTER)\s+(?:TEMP\w*\s+|UNIQUE\s+|VIRTUAL\s+)?(?:TABLE|VIEW|INDEX|TRIGGER))\b",
    re.IGNORECASE,
)
# A semicolon within quotes or a comment ends nothing.
_PIECES = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|--[^\n]*|/\*.*?\*/|(?P<end>;|\n[^\S\n]*\n)""", re.DOTALL)


class Guard:
    """What SQLite asks while it prepares and runs a query: may it do this, and is there time left?"""

    def __init__(self) -> None:
        self._deadline = math.inf
        self.refused = False

    @property
    def late(self) -> bool:
        return time.monotonic() > self._deadline

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Gives one query SECONDS to run."""
        self._deadline, self.refused = time.monotonic() + SECONDS, False
        try:
            yield
        finally:
            self._deadline = math.inf

    def allow(self, action: int, _first: str | None, second: str | None, *_: str | None) -> int:
        """SQLite's authorizer. It also stops a query that takes long to prepare, where the progress
        handler is not asked."""
        if action not in _READING:
            self.refused = True
        function = second if action == sqlite3.SQLITE_FUNCTION else None
        forbidden = self.refused or self.late or function == "load_extension"
        return sqlite3.SQLITE_DENY if forbidden else sqlite3.SQLITE_OK


class Runner:
    """Runs SELECTs on one connection, which it owns and closes, and nothing else."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")
        # Forty WITH parts, each naming the one before twice, fill any memory before the query starts.
        # The limit holds for all of SQLite in this process.
        connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._guard = guard = Guard()
        connection.set_authorizer(guard.allow)
        connection.set_progress_handler(lambda: guard.late, 100)
        self._connection = connection

    def __del__(self) -> None:
        self._connection.close()

    def rows(self, query: str) -> list[Row]:
        """The rows of one SELECT. Raises QueryFailed."""
        with self._guard.watching():
            try:
                with closing(self._connection.execute(query)) as cursor:
                    return self._fetch(cursor)
            # sqlite3.Warning (two statements at once, before Python 3.12) is no sqlite3.Error.
            except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
                raise QueryFailed(self._reason(error)) from error

    def _fetch(self, cursor: sqlite3.Cursor) -> list[Row]:
        rows: list[Row] = []
        size = 0
        for row in cursor:
            rows.append(row)
            size += sum(len(cell) if isinstance(cell, str | bytes) else 1 for cell in row)
            if len(rows) > MAX_ROWS or size > _MAX_SIZE:
                raise ResultTooLarge(f"returns more than {MAX_ROWS} rows or {_MAX_SIZE} characters")
        return rows

    def _reason(self, error: Exception) -> str:
        if self._guard.late:
            return f"took longer than {SECONDS:g} s"
        if self._guard.refused:
            return "not a SELECT"
        return f"does not run: {' '.join(str(error).split())[:200] or 'too little memory'}"


class RunnerPerTable:
    """One database per WikiSQL table, opened when first asked for; the 64 used last stay open."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._open = lru_cache(maxsize=64)(lambda table_id: Runner(open_table(tables[table_id])))

    def find(self, question: Question) -> Runner:
        """The question's database. Raises SourceError when its row's ``extra["table_id"]`` names none."""
        table_id = question.example.extra.get("table_id") if question.example else None
        if not isinstance(table_id, str) or table_id not in self._tables:
            raise SourceError(
                f'{question.origin}: "table_id" {table_id!r} is not in {self._tables.path}; add the table.'
            )
        return self._open(table_id)


def same_rows(gold: list[Row], rows: list[Row]) -> bool:
    """Whether two results hold the same rows, each as often, in any order."""
    if len(gold) != len(rows):
        return False
    pairs = zip(sorted(gold, key=_row_order), sorted(rows, key=_row_order), strict=True)
    return all(len(a) == len(b) and all(map(_same_cell, a, b)) for a, b in pairs)


def _same_cell(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return type(a) is type(b) and a == b


def _row_order(row: Row) -> tuple[Any, ...]:
    """Sorts rows so that equal ones meet. Text decides before numbers, and numbers by six digits only:
    where two differ by rounding error, the next cell must still decide the same way."""
    words = tuple((type(cell).__name__, cell) for cell in row if isinstance(cell, str | bytes))
    numbers = tuple((cell is None, float(f"{cell or 0:.6g}")) for cell in row if not isinstance(cell, str | bytes))
    return len(words), words, numbers


def _open_database(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise SourceError(f"There is no database {path}; give an SQLite file or a script ending in .sql.")
    with _translated(path):
        if path.suffix == ".sql":
            connection = sqlite3.connect(":memory:")
            # A script may build the database and nothing outside it.
            connection.set_authorizer(_no_attach)
            connection.executescript(path.read_text("utf-8"))
            connection.commit()
        else:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        return connection


def _no_attach(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"Cannot open the database {path}: {error}; give an SQLite file or script.") from error
