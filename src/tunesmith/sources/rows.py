"""Files of rows in JSON and JSONL, a piece at a time: memory holds the longest row, not the file.

A row in a form of `forms` becomes an `Example`; any other, a broken line and a line that is too long
become `Quarantined`. Nothing is left out without a word.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from tunesmith.settings import Column
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.forms import read_row
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.text import SAMPLE, Unreadable, encoding_of, source_errors

CHUNK = 1 << 20
"""Bytes read at once, and about the size of a block."""

LONGEST = 64 << 20
"""Bytes that one row may have (characters, in a JSON array)."""

LISTS = ("data", "rows", "examples", "train")
"""Under these keys a JSON object may hold its rows."""

Form = Callable[[Any, Origin], Example]
"""What makes an Example of one parsed row, or raises `Unreadable`."""

_DAMAGED = "tunesmith-damaged"  # how decoders call `_damaged`
_SHOWN = 2_000  # characters of a huge row that quarantine shows
_FAR = re.compile("[^\0-\x7f]+")
_LIST_AHEAD = re.compile(rb'\{[^\n]{0,1000}?"(data|rows|examples|train)"\s*:\s*\[')


@dataclass(frozen=True)
class Block:
    """Whole lines of a JSONL file in UTF-8, to be read by `read_block`, perhaps in another process.

    line: number of its first line, from 1.
    """

    name: str
    line: int
    data: bytes
    columns: Mapping[Column, str]


def is_lines(path: Path) -> bool:
    """Whether a file is JSONL in UTF-8, so that `blocks` can read it, by its first bytes."""
    with source_errors(path), path.open("rb") as file:
        sample = file.read(SAMPLE)
    try:
        return _encoding(sample) in ("utf-8", "utf-8-sig") and _looks_like_lines(sample)
    except Unreadable:
        return False


def blocks(path: Path, name: str, columns: Mapping[Column, str]) -> Iterator[Block | Quarantined]:
    """A JSONL file in UTF-8 cut at line ends, without a look inside; a line that is too long is quarantined.

    Raises `SourceError` when the file cannot be opened.
    """
    for line, data in _cut(_chunks(path, "utf-8")):
        yield Quarantined(Origin(name, line), *data) if isinstance(data, tuple) else Block(name, line, data, columns)


def read_block(block: Block) -> Iterator[Example | Quarantined]:
    """Every row of a block, in order."""
    return _read_lines(block.data, block.line, block.name, partial(read_row, columns=block.columns))


def read_rows(path: Path, name: str, columns: Mapping[Column, str] = {}) -> Iterator[Example | Quarantined]:
    """Every row of a JSONL file, a JSON array, or a JSON object that holds a list of rows, in any encoding.

    Raises `SourceError` when the file cannot be opened.
    """
    return read_formed(path, name, partial(read_row, columns=columns))


def read_formed(path: Path, name: str, form: Form) -> Iterator[Example | Quarantined]:
    """`read_rows`, each row read by ``form``."""
    with source_errors(path), path.open("rb") as file:
        sample = file.read(SAMPLE)
    empty = True
    try:
        encoding = _encoding(sample)
    except Unreadable as reason:
        yield Quarantined(Origin(name), str(reason), sample[:_SHOWN].decode("utf-8", "replace"))
        return
    if encoding in ("utf-8", "utf-8-sig"):
        lines, chunks = _looks_like_lines(sample), _chunks(path, "utf-8")
    else:
        start = codecs.getincrementaldecoder(encoding)("replace").decode(sample).encode("utf-8", "replace")
        lines, chunks = _looks_like_lines(start), _transcoded(path, encoding)
    for item in _lines(chunks, name, form) if lines else _values(chunks, name, form):
        empty = False
        yield item
    if empty:
        nothing = not sample.strip(codecs.BOM_UTF8 + b" \t\r\n\0")
        yield Quarantined(Origin(name), "the file is empty" if nothing else "the file holds no rows")


def _encoding(sample: bytes) -> str:
    """As `encoding_of`, but a few damaged characters do not make UTF-8 something else."""
    encoding = encoding_of(sample)
    if encoding.startswith("utf"):
        return encoding
    text = sample.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return "utf-8" if sum(map(len, _FAR.findall(text))) > 2 * bad else encoding


def _looks_like_lines(sample: bytes) -> bool:
    """Whether text in UTF-8 begins as JSONL does, rather than with an array or an object over many lines."""
    text = sample.removeprefix(codecs.BOM_UTF8).lstrip()
    first, end, behind = text.partition(b"\n")
    first = first.rstrip()
    if not text or text.startswith(b"[") or (not behind.strip() and _LIST_AHEAD.match(text)):
        return False
    if not end and len(sample) >= SAMPLE:
        return not _LIST_AHEAD.match(text)
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:  # a broken row, or the head of an object
        return not first.endswith((b"{", b"[", b","))
    return True


def _chunks(path: Path, encoding: str) -> Iterator[bytes]:
    with source_errors(path), path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8 or encoding != "utf-8":
            file.seek(0)
        while chunk := file.read(CHUNK):
            yield chunk


def _damaged(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes that are no characters become one that UTF-8 cannot hold, so that only their row is lost."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return b"\xff", error.end
    raise error


codecs.register_error(_DAMAGED, _damaged)


def _transcoded(path: Path, encoding: str) -> Iterator[bytes]:
    """The file's bytes as UTF-8; where they were damaged, with the byte 0xff."""
    decoder = codecs.getincrementaldecoder(encoding)(_DAMAGED)
    for chunk in _chunks(path, encoding):
        yield decoder.decode(chunk).encode("utf-8", _DAMAGED)
    yield decoder.decode(b"", final=True).encode("utf-8", _DAMAGED)


def _lines(chunks: Iterator[bytes], name: str, form: Form) -> Iterator[Example | Quarantined]:
    for line, data in _cut(chunks):
        if isinstance(data, tuple):
            yield Quarantined(Origin(name, line), *data)
        else:
            yield from _read_lines(data, line, name, form)


def _cut(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes | tuple[str, str]]]:
    """Whole lines with the number of the first; for a line longer than `LONGEST`, the reason and its beginning."""
    line, kept, size, skipped = 1, [], 0, b""  # size: of the line that has begun; skipped: how it begins, if too long
    for chunk in chunks:
        first = chunk.find(b"\n") + 1
        if first and size + first > max(LONGEST, len(chunk)):
            yield line, _too_long(size + first, skipped or kept[0])
            line, kept, size, skipped, chunk = line + 1, [], 0, b"", chunk[first:]
        if end := chunk.rfind(b"\n") + 1:
            data = b"".join([*kept, chunk[:end]])
            yield line, data
            line, kept, size, chunk = line + data.count(b"\n"), [], 0, chunk[end:]
        size += len(chunk)
        if size > LONGEST and kept:
            skipped, kept = kept[0][:_SHOWN], []
        elif chunk and not skipped:
            kept.append(chunk)
    if skipped:
        yield line, _too_long(size, skipped)
    elif kept:
        yield line, b"".join(kept)


def _too_long(size: int, start: bytes) -> tuple[str, str]:
    return (
        f"the line has {size:,} bytes, more than the {LONGEST:,} that a row may have; divide it",
        start[:_SHOWN].decode("utf-8", "replace"),
    )


def _read_lines(data: bytes, line: int, name: str, form: Form) -> Iterator[Example | Quarantined]:
    loads, broken = orjson.loads, orjson.JSONDecodeError
    for number, raw in enumerate(data.split(b"\n"), line):  # not splitlines(): a row may hold a bare \r
        try:
            row = loads(raw)
        except broken:
            if raw and not raw.isspace():
                yield _read_slowly(raw, Origin(name, number), form)
            continue
        origin = Origin(name, number)
        try:
            yield form(row, origin)
        except Unreadable as reason:
            yield _quarantined(origin, str(reason), raw.decode("utf-8", "replace"))


def _read_slowly(raw: bytes, origin: Origin, form: Form) -> Example | Quarantined:
    """A line that orjson refuses: damaged, broken, or with numbers and characters that only `json` takes."""
    text = raw.decode("utf-8", "replace").strip()
    try:
        _check_characters(raw)
        return form(_parse(text), origin)
    except Unreadable as reason:
        return _quarantined(origin, str(reason), text)


def _check_characters(raw: bytes) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise Unreadable("damaged: it holds bytes that are no characters; save the file as UTF-8") from None


def _parse(text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unreadable("it holds half a character (a lone surrogate such as \\ud83d)") from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"broken JSON: {error}") from None
    return value


def _quarantined(origin: Origin, reason: str, text: str) -> Quarantined:
    if len(text) > SAMPLE:
        reason, text = f"{reason} (the row has {len(text):,} characters)", text[:_SHOWN]
    return Quarantined(origin, reason, text)


class _Broken(Exception):
    """Why JSON cannot be read further."""


class _Cursor:
    """A place in JSON that comes in chunks; what was read is let go."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = codecs.iterdecode(chunks, "utf-8", _DAMAGED)
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0

    @property
    def line(self) -> int:
        """The line of the place, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def peek(self) -> str:
        """The next character that is no space or comma; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n,:":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Go behind one character."""
        self._at += 1

    def value(self) -> tuple[Any, str]:
        """The value that begins here, and its text. Raises `_Broken`."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                # A number at the end of what is held may go on behind it.
                if end < len(self._text) or self._text[end - 1] in '"]}' or not self._more():
                    text, self._at = self._text[self._at : end], end
                    return value, text
            except (ValueError, RecursionError) as error:
                if not self._may_go_on(error) or not self._more():
                    raise _Broken(str(error).partition(":")[0]) from None
            if len(self._text) - self._at > LONGEST + CHUNK:
                raise _Broken(f"a row has more than {LONGEST:,} characters")

    def rest(self) -> tuple[str, int]:
        """The beginning of all that follows, and how many characters that is."""
        text = self._text[self._at : self._at + _SHOWN]
        size = len(self._text) - self._at + sum(map(len, self._chunks))
        self._text, self._at = "", 0
        return text, size

    def _may_go_on(self, error: Exception) -> bool:
        """Whether the text merely ended too early: an open string, or an error in its last few characters."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 16

    def _more(self) -> bool:
        """Read on, as much again as is held, so that a long row is not parsed too often. False at the end."""
        kept = len(self._text) - self._at
        pieces, size = [], 0
        while size <= min(kept, LONGEST) and (chunk := next(self._chunks, "")):
            pieces.append(chunk)
            size += len(chunk)
        if pieces:
            self._line, self._text = self.line, "".join([self._text[self._at :], *pieces])
            self._at = self._counted = 0
        return bool(pieces)


def _values(chunks: Iterator[bytes], name: str, form: Form) -> Iterator[Example | Quarantined]:
    """The rows of JSON that is not one row a line; what follows a break in it is one quarantined row."""
    cursor = _Cursor(chunks)
    try:
        while first := cursor.peek():
            if first == "[":
                yield from _elements(cursor, name, form)
            elif first == "{":
                yield from _object(cursor, name, form)
            else:
                yield _element(cursor, name, form)
    except _Broken as error:
        line = cursor.line
        text, size = cursor.rest()
        huge = f", {size:,} characters," if size > _SHOWN else ""
        reason = f"broken JSON ({error}); the rest of the file{huge} cannot be read"
        yield Quarantined(Origin(name, line), reason, text)


def _elements(cursor: _Cursor, name: str, form: Form) -> Iterator[Example | Quarantined]:
    cursor.skip()
    while (first := cursor.peek()) != "]":
        if not first:
            yield Quarantined(Origin(name, cursor.line), "the array is cut short: its ] is missing")
            return
        yield _element(cursor, name, form)
    cursor.skip()


def _element(cursor: _Cursor, name: str, form: Form) -> Example | Quarantined:
    origin = Origin(name, cursor.line)
    value, text = cursor.value()
    try:
        _check_characters(text.encode("utf-8", _DAMAGED))
        return form(_whole(value, text), origin)
    except Unreadable as reason:
        return _quarantined(origin, str(reason), text.encode("utf-8", "replace").decode())


def _whole(value: Any, text: str) -> Any:
    """The value, unless an escape in its text makes half a character."""
    return _parse(text) if "\\ud" in text or "\\uD" in text else value


def _object(cursor: _Cursor, name: str, form: Form) -> Iterator[Example | Quarantined]:
    """An object is one row, unless it holds a list of them."""
    origin, members, listed = Origin(name, cursor.line), {}, False
    cursor.skip()
    while (first := cursor.peek()) != "}":
        if first != '"':
            raise _Broken("an object is cut short" if not first else "a key must stand in quotation marks")
        key, _ = cursor.value()
        if cursor.peek() == "[" and key in LISTS:
            listed = True
            yield from _elements(cursor, name, form)
        else:
            members[key], _ = cursor.value()
    cursor.skip()
    if listed:
        return
    try:
        text = json.dumps(members, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise _Broken(str(error)) from None
    try:
        yield form(_parse(text), origin)
    except Unreadable as reason:
        yield _quarantined(origin, str(reason), text.encode("utf-8", "replace").decode())
