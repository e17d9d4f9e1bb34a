"""SQLite, opened so that nothing can be written, created or attached."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from tunesmith.errors import SourceError
from tunesmith.sources.table import Row, Table
from tunesmith.sources.wikisql import column_names, quote_name

LOCKED_SECONDS = 1.0
"""So long another program may hold the database."""

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def read_database(path: Path, table: str | None, query: str | None) -> Iterator[Table]:
    """A table, or what a SELECT returns. Raises `SourceError`."""
    with _database_errors(path, query), closing(_opened(path)) as database:
        if query is None:
            there = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            there = [name for name in there if not name.startswith("sqlite_")]
            if table is None and len(there) == 1:
                table = there[0]
            views = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
            if not there + views:
                raise SourceError(f"{path} is a database without a table; fill it or leave it out")
            if table is None or table not in there + views:
                what = f"no table {table!r}" if table else f"{len(there)} tables"
                listed = ", ".join(map(repr, there + views))
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
