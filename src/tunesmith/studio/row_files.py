"""Rows of a file of any size: only where its lines begin is kept in memory, and that only as far as was looked."""

from __future__ import annotations

import json
import mmap
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PIECE = 1 << 23
"""Bytes that are looked through at once."""
PATIENCE = 1.0
"""Seconds that one search may take; it then says how far it came."""


@dataclass(frozen=True)
class Found:
    """Some rows: (number, row), numbered from 0. more: the number to go on from, or None; ended: the patience was
    spent before so many were found."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    more: int | None = None
    ended: bool = False


class RowFile:
    """A JSONL file that does not change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = np.zeros(1, np.int64)
        """Where lines begin, as far as `_indexed`; the last entry is where the next would."""
        self._indexed = 0
        self._one_at_a_time = threading.Lock()

    def rows(self, first: int, count: int) -> Found:
        """Rows from number ``first`` on."""
        with self._mapped() as data:
            while len(self._starts) <= first + count and self._index_more(data):
                pass
            last = min(first + count, len(self._starts) - 1)
            read = [(n, row) for n in range(first, last) if (row := self._row(data, n)) is not None]
            return Found(read, last if first < last < len(self._starts) - 1 or self._indexed < len(data) else None)

    def search(self, text: str, file: str, first: int, count: int, patience: float = PATIENCE) -> Found:
        """The next rows with ``text`` in them that come from a file with ``file`` in its name, from number ``first``
        on. Case does not matter. A row is read only where its bytes look like it."""
        pattern = _pattern(text or file)
        until, found, number = time.monotonic() + patience, list[tuple[int, dict[str, Any]]](), first
        with self._mapped() as data:
            while len(self._starts) <= first + 1 and self._index_more(data):
                pass
            while number < len(self._starts) - 1:
                end = int(np.searchsorted(self._starts, self._starts[number] + PIECE))
                end = min(max(end, number + 1), len(self._starts) - 1)
                for candidate in self._candidates(data, pattern, number, end):
                    number = candidate + 1
                    row = self._row(data, candidate)
                    if row is not None and matches(row, text, file):
                        found.append((candidate, row))
                    if len(found) == count or time.monotonic() > until:
                        break
                else:
                    number = end
                if number == len(self._starts) - 1 and not self._index_more(data):
                    return Found(found)
                if len(found) == count or time.monotonic() > until:
                    return Found(found, number, len(found) < count)
        return Found(found)

    def _candidates(self, data: mmap.mmap | bytes, pattern: re.Pattern[bytes], first: int, end: int) -> Iterator[int]:
        """The rows from ``first`` to before ``end`` whose bytes fit."""
        begin, last = int(self._starts[first]), -1
        for hit in pattern.finditer(data[begin : self._starts[end]].lower()):
            number = int(np.searchsorted(self._starts, begin + hit.start(), "right")) - 1
            if number != last:
                yield number
            last = number

    def _row(self, data: mmap.mmap | bytes, number: int) -> dict[str, Any] | None:
        try:
            row = json.loads(data[self._starts[number] : self._starts[number + 1]])
        except ValueError:
            return None
        return row if isinstance(row, dict) else None

    def _index_more(self, data: mmap.mmap | bytes) -> bool:
        """Find the lines of the next piece; False at the end of the file."""
        with self._one_at_a_time:
            if self._indexed >= len(data):
                return False
            self._index(data)
            return True

    def _index(self, data: mmap.mmap | bytes) -> None:
        end, places = self._indexed, np.empty(0, np.int64)
        while end < len(data) and not len(places):  # a line may be longer than a piece
            begin, end = end, min(end + PIECE, len(data))
            places = np.flatnonzero(np.frombuffer(data[begin:end], np.uint8) == 10) + begin + 1
        if end == len(data) and (not len(places) or places[-1] != end):
            places = np.append(places, end)
        self._starts = np.concatenate([self._starts, places])
        self._indexed = int(places[-1])

    @contextmanager
    def _mapped(self) -> Iterator[mmap.mmap | bytes]:
        with self.path.open("rb") as file:
            if not file.seek(0, 2):
                yield b""  # an empty file cannot be mapped
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data


def matches(row: dict[str, Any], text: str, file: str) -> bool:
    """Whether what a person sees of a row holds ``text``, and its file's name ``file``."""
    return text.lower() in seen_text(row).lower() and file.lower() in str(origin_of(row).get("file", "")).lower()


def seen_text(row: dict[str, Any]) -> str:
    said = [str(message.get("content", "")) for message in row.get("messages", ())]
    return "\n".join([*said, str(row.get("reason", "")), str(row.get("text", ""))])


def origin_of(row: dict[str, Any]) -> dict[str, Any]:
    """Of a row {"origin": …}; what is in quarantine has the same keys in the open."""
    origin = row.get("origin", row)
    return origin if isinstance(origin, dict) else {}


def _pattern(text: str) -> re.Pattern[bytes]:
    """The text as JSON has it, in bytes whose ASCII letters were made small: a plain string, which is found five times
    as fast, but for letters such as É."""
    parts = []
    for character in json.dumps(text, ensure_ascii=False)[1:-1]:
        small, large = (form.encode("utf-8", "replace") for form in (character.lower(), character.upper()))
        parts.append(re.escape(small) if character.isascii() else _either(small, large))
    return re.compile(b"".join(parts))


def _either(small: bytes, large: bytes) -> bytes:
    return re.escape(small) if small == large else b"(?:%b|%b)" % (re.escape(small), re.escape(large))
