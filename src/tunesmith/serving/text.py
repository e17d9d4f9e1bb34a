"""Text as it is written, token by token: whole characters only, and no further than a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNREADABLE = "\ufffd"
"""What half of a character decodes to."""


class Decoding:
    """The text that each token adds. Only the last few are decoded again: an answer of a thousand tokens would else be
    decoded a thousand times."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids = list[int]()
        self._window = self._read = 0
        self._known = ""

    def add(self, token: int) -> str:
        """What can be shown now; half of a character waits for its other half."""
        self._ids.append(token)
        text = self._decode(self._ids[self._window :])
        whole = text.rstrip(UNREADABLE)
        new, self._known = whole[len(self._known) :], max(whole, self._known, key=len)
        if whole == text:  # decode from the last whole token on: a tokenizer may join it with the next by a space
            self._window, self._read = self._read, len(self._ids)
            self._known = self._decode(self._ids[self._window :])
        return new

    def rest(self) -> str:
        """What never became whole, when no token comes any more."""
        return self._decode(self._ids[self._window :])[len(self._known) :]


class Stops:
    """Holds back what may be the beginning of a stop string. None of it is ever shown."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""
        self.met = False

    def add(self, text: str) -> str:
        """What can be shown."""
        if not self._strings or self.met:
            return "" if self.met else text
        text = self._held + text
        ends = [at for string in self._strings if (at := text.find(string)) >= 0]
        if ends:
            self.met, self._held = True, ""
            return text[: min(ends)]
        keep = max(begun(text, string) for string in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, when no text comes any more."""
        held, self._held = self._held, ""
        return held


def begun(text: str, string: str) -> int:
    """How many characters at the end of ``text`` are the beginning of ``string``."""
    most = min(len(string) - 1, len(text))
    return next((count for count in range(most, 0, -1) if text.endswith(string[:count])), 0)
