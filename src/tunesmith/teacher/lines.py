"""Topics, or questions that are there already: the lines of a text, the strings of a JSON array, or rows in any form,
whether they have answers or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.settings import Column, TeacherSettings
from tunesmith.sources.columns import plan_of
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import read_source
from tunesmith.sources.rendered import parse_rendered
from tunesmith.sources.rows import Block, read_block
from tunesmith.sources.text import Unreadable
from tunesmith.sources.turns import read_turns
from tunesmith.teacher.parse import tidy

NAMES = ("questions", "prompts", "instructions", "queries", "topic", "topics", "主题", "话题")
"""What else than a question's column, as all rows have it, a column of lines may be called."""


@dataclass(frozen=True)
class Line:
    """A topic, or a question that was there."""

    text: str
    origin: Origin


def lines(settings: TeacherSettings, start: Path) -> Iterator[Line | Quarantined]:
    """All of them, in order. Raises `SourceError` when a source is not there, or no column of it is known."""
    for source in settings.sources:
        for item in read_source(source, start, partial(_row, columns=source.columns)):
            for part in _opened(item):
                yield Line(_asked(part.messages), part.origin) if isinstance(part, Example) else part


def _opened(item: Example | Unread | Quarantined | Block) -> Iterator[Example | Quarantined]:
    if isinstance(item, Block):
        yield from read_block(item)
    elif isinstance(item, Unread):
        document = read_later(item)
        yield from _lines_of(document) if isinstance(document, Document) else [document]
    else:
        yield item


def _lines_of(document: Document) -> Iterator[Example]:
    for number, line in enumerate(document.text.splitlines(), 1):
        if text := tidy(line):
            yield Example((Message("user", text),), Origin(document.origin.file, number))


def _row(row: Any, origin: Origin, columns: Mapping[Column, str]) -> Example:
    """A row that need have no answer, as the question alone. Raises `Unreadable`."""
    text = row if isinstance(row, str) else _question(row, columns) if isinstance(row, dict) else ""
    if not text.strip():
        raise Unreadable("the question is empty, or is no text; write one or leave the row out")
    return Example((Message("user", text.strip()),), origin)


def _question(row: dict[str, Any], columns: Mapping[Column, str]) -> str:
    keys = plan_of(row, columns).keys
    if "text" in keys:  # a question beside it is meant
        keys = plan_of({k: v for k, v in row.items() if k != keys["text"]}, columns).keys or keys
    for part in ("messages", "question"):
        if isinstance(row.get(keys.get(part, "")), list):
            return _asked(read_turns(row[keys[part]], keys[part], []))
    if "question" in keys:
        parts = [row[keys[part]] for part in ("question", "context") if part in keys]
        return "\n".join(text for text in parts if isinstance(text, str) and text.strip())
    if "text" in keys:
        text = row[keys["text"]]
        return _asked(parse_rendered(text) or [Message("text", text)]) if isinstance(text, str) else ""
    key = next((key for key in row if key.strip().casefold() in NAMES), None)
    if key is None:
        there = ", ".join(map(repr, list(row)[:30])) or "nothing"
        raise Unreadable(
            f'no known form: a row needs a "question", and this one has {there}; columns = {{question = "…"}} names it'
        )
    return row[key] if isinstance(row[key], str) else ""


def _asked(messages: list[Message] | tuple[Message, ...]) -> str:
    """The first question of a conversation: what is asked later may need what was said before."""
    first = next((message for message in messages if message.role == "user"), messages[0])
    return first.content.strip()
