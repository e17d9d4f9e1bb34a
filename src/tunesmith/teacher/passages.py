"""What a teacher starts from: the passages of documents, or topics and questions, each with the place it stands in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.dataset.compose import divide
from tunesmith.errors import SourceError
from tunesmith.settings import SourceTable, TeacherSettings
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import ROWS, read_source
from tunesmith.sources.rows import Block, read_block, read_formed
from tunesmith.sources.text import Unreadable
from tunesmith.teacher.request import tokens_of


@dataclass(frozen=True)
class Passage:
    """A stretch of a document. title: the document's, and the headings that the stretch stands under."""

    text: str
    title: str
    origin: Origin


@dataclass(frozen=True)
class Line:
    """A topic, or a question that was there."""

    text: str
    origin: Origin


class _Rough:
    """Counts tokens without a tokenizer: another base model must not change the passages, which are paid for."""

    def count(self, text: str) -> int:
        return tokens_of(text)

    def size(self, row: Example) -> int:
        return sum(tokens_of(message.content) for message in row.messages)


def passages(settings: TeacherSettings, start: Path) -> Iterator[Passage | Quarantined]:
    """The passages of all documents, in order. Raises `SourceError` when a source is not there."""
    for source in settings.sources:
        for item in read_source(source, start):
            document = read_later(item) if isinstance(item, Unread) else item
            if isinstance(document, Document):
                yield from _divided(document, settings.passage)
            elif isinstance(document, Quarantined):
                yield document
            else:
                raise SourceError(
                    f'{source.path} holds rows, not documents; teacher.way = "questions" asks their questions anew'
                )


def _divided(document: Document, tokens: int) -> Iterator[Passage | Quarantined]:
    try:
        rows = list(divide(document, "{title}", "", tokens, _Rough()))
    except SourceError:
        yield Quarantined(document.origin, "its headings leave no room for a passage; raise teacher.passage", "")
        return
    for row in rows:
        yield Passage(row.answer, row.prompt[-1].content, row.origin)


def lines(settings: TeacherSettings, start: Path) -> Iterator[Line | Quarantined]:
    """Topics or questions: lines of a text, strings of a JSON array, or the questions of rows in any form."""
    for source in settings.sources:
        for item in _items(source, start):
            if isinstance(item, Quarantined):
                yield item
            else:
                asked = [m.content for m in item.prompt if m.role != "system"] or [item.messages[0].content]
                yield Line(asked[-1].strip(), item.origin)


def _items(source: SourceTable, start: Path) -> Iterator[Example | Quarantined]:
    suffix, path = Path(source.path).suffix.lower(), start / source.path
    if source.kind in ("auto", "rows") and suffix in ROWS and path.is_file() and not source.limit:
        column = source.columns.get("question")
        yield from read_formed(path, source.path, lambda row, origin: _question(row, origin, column))
        return
    for item in read_source(source, start):
        if isinstance(item, Block):
            yield from read_block(item)
        elif isinstance(item, Unread | Document):
            document = read_later(item) if isinstance(item, Unread) else item
            yield from _text_lines(document) if isinstance(document, Document) else [document]
        else:
            yield item


_ASKS = ("question", "prompt", "instruction", "query", "topic", "问题", "提问", "text")


def _question(row: Any, origin: Origin, column: str | None) -> Example:
    """A row that need have no answer."""
    if isinstance(row, dict) and isinstance(turns := row.get("messages", row.get("conversations")), list):
        row = next((t for t in turns if isinstance(t, dict) and t.get("role", t.get("from")) in ("user", "human")), {})
        row = {"question": row.get("content", row.get("value"))}
    if isinstance(row, dict):
        key = column or next((k for k in _ASKS if isinstance(row.get(k), str)), "")
        more = row.get("input")
        row = row.get(key)
        if isinstance(row, str) and isinstance(more, str) and more.strip():
            row = f"{row}\n{more}"
    if not isinstance(row, str) or not row.strip():
        raise Unreadable("no question: a text, or a row with one; columns = {question = …} can name its key")
    return Example((Message("user", row.strip()),), origin)


def _text_lines(document: Document) -> Iterator[Example]:
    for number, line in enumerate(document.text.splitlines(), 1):
        if text := line.strip().lstrip("-*• ").strip():
            yield Example((Message("user", text),), Origin(document.origin.file, number))
