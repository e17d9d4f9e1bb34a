"""The passages of documents, each with the place it stands in, and whether there is anything in it to ask about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.dataset.blocks import parse
from tunesmith.dataset.compose import divide
from tunesmith.errors import SourceError
from tunesmith.settings import TeacherSettings
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import read_source
from tunesmith.teacher.request import tokens_of

LEAST = 5
"""Words that a passage must have to be asked about: "Backups are kept for 7 days." states something, "See below:" does
not. Teachers invent what a table of contents only names."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document. title: the document's, and the headings that the stretch stands under; is_bare: there is
    nothing in it to ask about."""

    text: str
    title: str
    origin: Origin
    is_bare: bool = False


class RoughMeasure:
    """Counts tokens without a tokenizer: another base model must not change the passages, which are paid for when a
    teacher is asked about them, and which every model that is measured should read alike."""

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
        rows = list(divide(document, "{title}", "", tokens, RoughMeasure()))
    except SourceError:
        yield Quarantined(document.origin, "its headings leave no room for a passage; raise teacher.passage", "")
        return
    code = _lines_of_code(document.text)
    for row in rows:
        begins = "```\n" if row.origin.line in code else ""  # of a fence that was divided, where this one goes on
        yield Passage(row.answer, row.prompt[-1].content, row.origin, not says_something(begins + row.answer))


_FENCE = re.compile(r"[ \t]*(?:`{3,}|~{3,})")
_LINK = re.compile(r"!?\[[^\[\]]*\](?:\([^()]*\)|\[[^\[\]]*\])|^ {0,3}\[[^\[\]]+\]:.*$|<?https?://[!-~]+", re.MULTILINE)
_MARKUP = re.compile(
    r"`[^`\n]+`|<!--(?s:.*?)-->|</?[a-zA-Z][^<>]*>|^[^\n]*?(?:\.{4,}|(?: \.){4,}|…{2,})[ .…]*\d+[ \t]*$", re.MULTILINE
)
"""Code and tags; and a line of a table of contents, whose dots lead to a page."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+")


def _lines_of_code(text: str) -> set[int]:
    """The numbers of the lines that stand inside of fences."""
    found, line = set[int](), 1
    for block in parse(text):
        part = text[block.start : block.end]
        if not block.level and _FENCE.match(part):
            found.update(range(line + 1, line + 1 + part.rstrip().count("\n")))
        line += part.count("\n")
    return found


def says_something(text: str) -> bool:
    """Whether a passage has words (in Chinese: characters) besides headings, code, links and tables of contents."""
    said = 0
    for block in parse(text):
        part = text[block.start : block.end]
        if not block.level and not _FENCE.match(part):
            plain = _MARKUP.sub(" ", _LINK.sub(" ", _LINK.sub(" ", part)))  # twice: an image in a link
            said += len(_WORD.findall(plain))
    return said >= LEAST
