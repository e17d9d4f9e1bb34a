"""CSV and TSV, row by row: a broken row costs itself, and no quote swallows the file."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from tunesmith.sources.documents import refuse_binary
from tunesmith.sources.table import Row, Table, clean, with_header
from tunesmith.sources.text import DAMAGED, SAMPLE, Unreadable, encoding_of
from tunesmith.sources.wikisql import column_names

LONGEST = 16 << 20
"""Characters of one row."""
TRIED = 20
"""Rows that the delimiter is judged by."""


class _Lines:
    """The physical lines of a text. Those since `begin` can be read again, all but the first."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.number = self._size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._file.readline(LONGEST)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        self._size += len(line)
        if len(line) == LONGEST and not line.endswith(("\n", "\r")):
            while (rest := self._file.readline(LONGEST)) and not rest.endswith(("\n", "\r")):
                pass
        if self._size >= LONGEST:
            raise Unreadable(f"a row of more than {LONGEST >> 20} MB, or a quote that is opened here and never closed")
        return line

    def begin(self) -> None:
        self.taken, self._size = [], 0

    def retreat(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def read_csv(path: Path, delimiter: str, is_known: Callable[[list[str]], bool]) -> Iterator[Table]:
    """The one table of a file; an empty ``delimiter`` is found out; ``is_known`` knows headers. Raises `Unreadable`."""
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
        refuse_binary(sample, "a table of text")
        encoding, guess = encoding_of(sample)
        delimiter = delimiter or _delimiter(sample.decode(encoding, "replace"))
        file.seek(0)
        with io.TextIOWrapper(file, encoding, DAMAGED, newline="") as text:
            lines = _Lines(text)
            csv.field_size_limit(LONGEST)
            records = _records(csv.reader(lines, delimiter=delimiter, strict=True), lines)
            header, records = with_header(records, is_known)
            if header is None:
                raise Unreadable("the file is empty; fill it or leave it out")
            if header.reason:
                raise Unreadable(f"the header in line {header.line} cannot be read: {header.reason}")
            yield Table("", column_names([clean(cell) for cell in header.cells]), records, guess=guess)


def _records(reader: Iterator[list[str]], lines: _Lines) -> Iterator[Row]:
    """Rows with the line that each begins on. After a broken one, reading goes on at its second line, so that
    a stray quote costs one row; a table of one column would take that line for a row, and goes on behind."""
    width = 0
    while True:
        lines.begin()
        line, reason, cells = lines.number + 1, "", []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, Unreadable) as error:
            reason = _reason(error)
            if width != 1:
                lines.retreat()
            elif len(lines.taken) > 1:
                reason += f" (lines {line} to {lines.number})"
        width = max(width, len(cells))  # the first may be a title
        yield Row(line, cells, reason, "".join(lines.taken).rstrip("\r\n"))


def _reason(error: Exception) -> str:
    if "end of data" in str(error):
        return "a quote is opened here and never closed; close it"
    if "expected after" in str(error):
        return 'a quote stands inside a quoted cell; write it twice ("")'
    return str(error)


def _delimiter(sample: str) -> str:
    """The one of , ; tab | that divides the most rows as it divides the header, above which titles may stand."""

    def score(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        try:
            widths = [len(row) for row in islice(reader, TRIED) if row]
        except csv.Error:
            return 0, 0
        wide = next((width for width in widths if width > 1), 0)
        return (widths.count(wide), wide) if wide > 1 else (0, 0)

    return max(",;\t|", key=score)
