"""JSON that comes in chunks, one value after the other: memory holds the longest value, not the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.sources.quarantine import SHOWN
from tunesmith.sources.text import DAMAGED, json_problem

CHUNK = 1 << 20
"""Bytes read at once."""
LONGEST = 64 << 20
"""Characters that one value may have."""


_NEXT = re.compile(r"[,}\n]\s*(?=\{)")
"""Before an object that may be the next of a list."""
_FIRST_KEY = re.compile(r"""\{\s*["'“]?([^\s"'“”:{}\[\],][^\n"'“”:{}\[\],]{0,99}?)["'”]?[ \t]{0,9}:""")
"""Of an object, whatever is broken in it."""


class Broken(Exception):
    """Why JSON cannot be read further."""


class TooLong(Broken):
    """The same, of a value that is not even looked at to its end."""


class Cursor:
    """A place in JSON that comes in chunks; what was read is let go."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = codecs.iterdecode(chunks, "utf-8", DAMAGED)
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0
        self._last: Any = None
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
        """The value that begins here, and its text. Raises `Broken`."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                # A number at the end of what is held may go on behind it.
                if end < len(self._text) or self._text[end - 1] in '"]}' or not self._more():
                    text, self._at, self._last = self._text[self._at : end], end, value
                    return value, text
            except (ValueError, RecursionError) as error:
                if not self._may_go_on(error) or not self._more():
                    raise Broken(json_problem(error)) from None
            if len(self._text) - self._at > LONGEST + CHUNK:
                raise TooLong(f"a row has more than {LONGEST:,} characters")

    def recover(self, is_good: Callable[[Any], bool]) -> str | None:
        """Go behind a value that is broken, to the next object that is good and has a key of the value before (of the
        first of all: the key that it begins with), and return what was left out; None, without moving, where none
        follows within a megabyte.

        A part of the broken one, such as a turn of it, could be taken for the next but for that key.
        """
        while len(self._text) - self._at < 2 * CHUNK and self._more():
            pass
        begun = _FIRST_KEY.match(self._text, self._at)
        keys = set(self._last) if isinstance(self._last, dict) else {begun[1]} if begun else None
        for place in _NEXT.finditer(self._text, self._at + 1, self._at + CHUNK):
            try:
                value, _ = self._decoder.raw_decode(self._text, place.end())
            except (ValueError, RecursionError):
                continue
            if (keys is None or keys & value.keys()) and is_good(value):
                text, self._at = self._text[self._at : place.end()], place.end()
                return text.rstrip(", \t\r\n")
        return None

    def rest(self) -> tuple[str, int]:
        """The beginning of all that follows, and how many characters that is."""
        text = self._text[self._at : self._at + SHOWN]
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
