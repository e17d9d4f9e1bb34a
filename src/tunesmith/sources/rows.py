"""Files of rows in JSON and JSONL, a piece at a time: memory holds the longest row, not the file.

Here the encoding is found and lines are cut; JSON that is not one row a line is read in `arrays`.

A row in a form of `forms` becomes an `Example`; any other, a broken line and a line that is too long
become `Quarantined`. Nothing is left out without a word.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from tunesmith.settings import Column
from tunesmith.sources.arrays import Form, parse, quarantined, read_values
from tunesmith.sources.cursor import CHUNK, LONGEST
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.forms import read_row, with_notes
from tunesmith.sources.language import looks_chinese
from tunesmith.sources.quarantine import SHOWN, Quarantined
from tunesmith.sources.text import (
    DAMAGED,
    NOT_ITS_ENCODING,
    SAMPLE,
    UTF8_RUN,
    Unreadable,
    encoding_of,
    guess_note,
    source_errors,
)  # fmt: skip

MIXED = "read as GBK, in a file that is otherwise UTF-8; save all of it as UTF-8"


_UTF8 = ("utf-8", "utf-8-sig")
_FAR_UTF8 = re.compile(rb"[\xe3-\xed][\x80-\xbf]{2}")  # a Chinese, Japanese or Korean character
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
        return encoding_of(sample)[0] in _UTF8 and _looks_like_lines(sample)
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
        encoding, guess = encoding_of(sample)
    except Unreadable as reason:
        yield Quarantined(Origin(name), str(reason), sample[:SHOWN].decode("utf-8", "replace"))
        return
    if guess:
        form = _noting(form, guess_note(guess))
    start = sample
    if encoding not in _UTF8:
        start = codecs.getincrementaldecoder(encoding)("replace").decode(sample).encode("utf-8", "replace")
    lines = _looks_like_lines(start)
    if lines and not encoding.startswith("utf"):
        items = _lines(_chunks(path, encoding), name, form, encoding)
    else:
        chunks = _chunks(path, "utf-8") if encoding in _UTF8 else _transcoded(path, encoding)
        items = _lines(chunks, name, form) if lines else read_values(chunks, name, form)
    for item in items:
        empty = False
        yield item
    if empty:
        nothing = not sample.strip(codecs.BOM_UTF8 + b" \t\r\n\0")
        what = (
            "holds nothing but zero bytes"
            if nothing and b"\0" in sample
            else "is empty"
            if nothing
            else "holds no rows"
        )
        yield Quarantined(Origin(name), f"the file {what}; fill it or leave it out")


def read_taught(path: Path, name: str) -> Iterator[Example | Quarantined]:
    """Rows as tunesmith writes them itself, each with the place in the document that it is about.

    Raises `SourceError` when the file cannot be opened.
    """

    def form(row: object, origin: Origin) -> Example:
        try:
            return Example.from_json(row)  # type: ignore[arg-type]
        except (KeyError, TypeError, AttributeError):
            raise Unreadable("not a row that tunesmith wrote; name the file without kind") from None

    if path.stat().st_size:  # a teacher may have held nothing out
        yield from read_formed(path, name, form)


def _noting(form: Form, note: str) -> Form:
    return lambda row, origin: with_notes(form(row, origin), [note])


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


def _transcoded(path: Path, encoding: str) -> Iterator[bytes]:
    """The file's bytes as UTF-8; where they were damaged, with the byte 0xff."""
    decoder = codecs.getincrementaldecoder(encoding)(DAMAGED)
    for chunk in _chunks(path, encoding):
        if encoding == "gb18030":
            chunk = UTF8_RUN.sub(b"\xff", chunk)  # what a part in UTF-8 would become is no text
        yield decoder.decode(chunk).encode("utf-8", DAMAGED)
    yield decoder.decode(b"", final=True).encode("utf-8", DAMAGED)


def _lines(chunks: Iterator[bytes], name: str, form: Form, encoding: str = "utf-8") -> Iterator[Example | Quarantined]:
    """``encoding``: of lines that are not in UTF-8 already."""
    for line, data in _cut(chunks):
        if isinstance(data, tuple):
            yield Quarantined(Origin(name, line), *data)
            continue
        if encoding != "utf-8":
            data = b"\n".join(_line_in_utf8(raw, encoding) for raw in data.split(b"\n"))
        yield from _read_lines(data, line, name, form)


def _line_in_utf8(raw: bytes, encoding: str) -> bytes:
    """Files are put together from others: a line may be in UTF-8 among lines that are not."""
    if _FAR_UTF8.search(raw):
        try:
            raw.decode()
            return raw
        except UnicodeDecodeError:  # by accident, then, unless there are many
            if UTF8_RUN.search(raw):
                return raw
    text = raw.decode(encoding, DAMAGED)
    if encoding == "cp932":
        text = re.sub("[\ue000-\uf8ff]", "\udcff", text)  # what Python makes of bytes that are none in Shift-JIS
    return text.encode("utf-8", DAMAGED)


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
            skipped, kept = kept[0][:SHOWN], []
        elif chunk and not skipped:
            kept.append(chunk)
    if skipped:
        yield line, _too_long(size, skipped)
    elif kept:
        yield line, b"".join(kept)


def _too_long(size: int, start: bytes) -> tuple[str, str]:
    return (
        f"the line has {size:,} bytes, more than the {LONGEST:,} that a row may have; divide it",
        start[:SHOWN].decode("utf-8", "replace"),
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
            yield quarantined(origin, str(reason), raw.decode("utf-8", "replace"))


def _read_slowly(raw: bytes, origin: Origin, form: Form) -> Example | Quarantined:
    """A line that orjson refuses: damaged, broken, or with numbers and characters that only `json` takes."""
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        text = raw.decode("gb18030", "replace")
        if "\ufffd" in text or not looks_chinese(text):
            return quarantined(origin, NOT_ITS_ENCODING, raw.decode("utf-8", "replace").strip())
        form = _noting(form, MIXED)
    try:
        return form(parse(text), origin)
    except Unreadable as reason:
        return quarantined(origin, str(reason), text)
