"""One source of the recipe, whatever its kind, as a stream of rows, documents and what cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tunesmith.errors import RecipeError, SourceError
from tunesmith.hubs.download import OnProgress
from tunesmith.hubs.repository import is_hub
from tunesmith.settings import SourceTable
from tunesmith.sources import blog_index, documents, folder, registry, rows, tables, wikisql
from tunesmith.sources.arrays import Form
from tunesmith.sources.document import Unread
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.hub import fetched
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.text import source_errors, without_path

Item = Example | Unread | Quarantined | rows.Block
ROWS = (".json", ".jsonl", ".ndjson")
NO_KIND = (
    "a file of this kind is not read; save it as Markdown, PDF, CSV, JSON or the like, "
    'name it with kind = "documents" if it is plain text, or leave it out'
)


def read_source(source: SourceTable, start: Path, form: Form | None = None) -> Iterator[Item]:
    """Everything that the source names, at most ``source.limit``; relative paths begin at ``start``, and ``form`` reads
    rows otherwise than `forms.read_row` does.

    A large file of lines comes in blocks, for several processes to read. Raises `SourceError` when
    something named is not there, `RecipeError` when settings do not go together.
    """
    _check(source)
    items = _read(source, start, form)
    return islice(items, source.limit) if source.limit else items


def paths_of(source: SourceTable, start: Path, on_progress: OnProgress | None = None) -> Iterator[Path]:
    """Every file that decides what the source gives, for telling whether anything changed; ``on_progress`` gets bytes
    done and total when they have to be fetched first."""
    path, entry = _place(source, start, on_progress)
    if source.kind == "blog-index":
        yield path
        yield from blog_index.articles(path, source.marker, source.filter)
        return
    files = [path]
    if path.is_dir():
        files = [item[0] for item in folder.walk(path, path.name) if not isinstance(item, Quarantined)]
    elif entry:
        files = [path, registry.file_of(path, entry)]
    elif source.tables:
        files = [path, start / source.tables]
    yield from files
    for file in files:
        # What names its columns, and what SQLite has not written into it yet.
        beside = (file.with_name(registry.FILE), file.with_name(f"{file.name}-wal"))
        yield from (p for p in beside if p not in files and p.is_file())


def read_later_of(source: SourceTable, start: Path) -> Iterator[Path]:
    """Those of its files that are read by whoever divides them, perhaps on another machine; of all others the rows are
    handed over."""
    if source.kind not in ("auto", "documents", "blog-index"):
        return
    for path in paths_of(source, start):
        if source.kind != "auto" or path.suffix.lower() not in (*ROWS, *tables.TABLES):
            yield path


def _place(source: SourceTable, start: Path, on_progress: OnProgress | None = None) -> tuple[Path, str]:
    """The path that a source names, and the entry of a registry behind "#", if it is one."""
    if is_hub(source.path):
        return fetched(source.path, on_progress), ""
    file, _, entry = source.path.partition(f"{registry.FILE}#")
    return (start / file / registry.FILE, entry) if entry else (start / source.path, "")


def _check(source: SourceTable) -> None:
    suffix = Path(source.path).suffix.lower()
    columned = source.kind == "rows" or (source.kind == "auto" and suffix not in documents.DOCUMENTS)
    goes_with = (
        ("tables", source.tables, source.kind == "wikisql", 'kind = "wikisql"'),
        ("marker", source.marker, source.kind == "blog-index", 'kind = "blog-index"'),
        ("filter", source.filter, source.kind == "blog-index", 'kind = "blog-index"'),
        ("query", source.query, suffix in tables.SQLITE, "an SQLite file"),
        ("table", source.table, suffix in (*tables.SQLITE, ".xlsx"), "a workbook or an SQLite file"),
        ("columns", source.columns or None, columned, "rows, not with documents"),
    )
    for name, value, fits, what in goes_with:
        if value is not None and not fits:
            raise RecipeError(f"{source.path}: {name} goes with {what}")
    if source.kind == "wikisql" and source.tables is None:
        raise RecipeError(f'{source.path}: a source of kind "wikisql" needs tables = "…"')


def _read(source: SourceTable, start: Path, form: Form | None) -> Iterator[Item]:
    (path, entry), name = _place(source, start), source.path
    if source.kind == "wikisql":
        yield from wikisql.read_wikisql(path, start / (source.tables or ""), name)
    elif source.kind == "blog-index":
        yield from blog_index.read_blog_index(path, name, source.marker, source.filter)
    elif entry:
        yield from registry.read_registered(path, entry, name)
    elif path.is_dir():
        yield from _folder(source, path, name, form)
    else:
        with source_errors(path):
            path.stat()  # what is named must be there; what is wrong inside it goes to quarantine
        if not path.is_file():
            raise SourceError(f"{path} is neither a file nor a folder; name one")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path} cannot be read; check its permissions")
        yield from _file(source, path, name, form)


def _folder(source: SourceTable, path: Path, name: str, form: Form | None) -> Iterator[Item]:
    found = list(folder.walk(path, name))
    if source.columns and source.kind == "auto" and all(_is_document(item) for item in found):
        raise RecipeError(f"{source.path}: columns goes with rows, and the folder holds none")
    with_rows = _with_rows(found)
    for item in found:
        if isinstance(item, Quarantined):
            yield item
        elif item[0].name == registry.FILE:
            continue  # it says how the files beside it are read
        elif source.kind != "documents" and item[0].parent in with_rows and _is_about(item[0]):
            yield Quarantined(Origin(item[1]), ABOUT_ROWS, documents.beginning(item[0]))
        else:
            yield from _one_of_many(source, *item, form)
    if not found:
        raise SourceError(f"the folder {path} holds no files; put some into it, or name another")


ABOUT_ROWS = "describes the data beside it, and is not learned; name it as a source of its own to learn it"
_ABOUT = re.compile(r"(readme|licen[sc]e)([-_.].*)?|(source|notice|changelog|requirements)(\.\w+)?", re.IGNORECASE)


def _with_rows(found: list[tuple[Path, str] | Quarantined]) -> set[Path]:
    """The folders with files of rows in them or below."""
    files = [item[0] for item in found if not isinstance(item, Quarantined)]
    return {folder for file in files if _has_rows(file) and file.name != registry.FILE for folder in file.parents}


def _has_rows(file: Path) -> bool:
    return file.suffix.lower() in {*ROWS, *tables.TABLES}


def _is_about(file: Path) -> bool:
    """Whether a file tells of the others, by its name. Among documents it may be one; among rows it is hardly meant,
    and would be the one text of its kind."""
    return not _has_rows(file) and _ABOUT.fullmatch(file.name) is not None


def _is_document(item: tuple[Path, str] | Quarantined) -> bool:
    return isinstance(item, Quarantined) or item[0].suffix.lower() in documents.DOCUMENTS


def _one_of_many(source: SourceTable, path: Path, name: str, form: Form | None) -> Iterator[Item]:
    """A file that stops the run when it is named is only quarantined when it lies in a folder."""
    try:
        yield from _file(source, path, name, form)
    except SourceError as error:
        yield Quarantined(Origin(name), without_path(error, path))


def _file(source: SourceTable, path: Path, name: str, form: Form | None) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if source.kind == "documents" or (source.kind == "auto" and suffix in documents.DOCUMENTS):
        yield Unread(path, name)
    elif source.kind == "taught":
        yield from rows.read_taught(path, name)
    elif suffix in tables.TABLES:
        yield from tables.read_table(path, name, source.columns, source.table, source.query, form)
    elif source.kind == "rows" or suffix in ROWS:
        yield from rows.read_formed(path, name, form) if form else _rows(source, path, name)
    else:
        yield Quarantined(Origin(name), NO_KIND)


def _rows(source: SourceTable, path: Path, name: str) -> Iterator[Item]:
    if path.name == registry.FILE:
        registry.refuse_itself(path)
    entry = registry.registered(path.parent, path.name) if not source.columns else None
    if entry is not None:
        yield from registry.read_registered(path.parent / registry.FILE, entry, name)
    elif rows.is_lines(path) and not source.limit:
        yield from rows.blocks(path, name, source.columns)
    else:
        yield from rows.read_rows(path, name, source.columns)
