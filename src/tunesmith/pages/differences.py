"""Two texts side by side: what of each is not in the other, word by word, in Chinese character by character."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from tunesmith.pages.text import WIDE

SENTENCES = re.compile(r"[^。！？；.!?;\n]+[。！？；.!?;\n]*|[。！？；.!?;\n]+")
UNITS = re.compile(rf"[{WIDE}]|[^\W{WIDE}]+|\s+|.", re.DOTALL)
"""What two texts are compared by: sentences, and where these differ words, Chinese characters, signs, spaces."""
SLOW = 100_000
"""Above that many pairs of units the frequent ones do not count at first: 0.03 s, not 0.6, for 2,000 characters."""

Marked = list[tuple[bool, str]]
"""A text in pieces: (differs from the other text, piece)."""


def differences(first: str, second: str) -> tuple[Marked, Marked]:
    """Both texts in pieces, marked where they differ. Joined, the pieces are the texts."""
    blocks = list[tuple[bool, str, str]]()
    for same, a, b in _blocks(SENTENCES.findall(first), SENTENCES.findall(second)):
        blocks += [(same, a, b)] if same else _blocks(UNITS.findall(a), UNITS.findall(b))
    return _pieces([(not same, a) for same, a, _ in blocks]), _pieces([(not same, b) for same, _, b in blocks])


def _blocks(a: list[str], b: list[str]) -> list[tuple[bool, str, str]]:
    """(is the same, text of a, text of b), one after the other."""
    begin = _same(a, b)
    end = _same(a[begin:][::-1], b[begin:][::-1])
    a, start, rest = a[begin : len(a) - end], a[:begin], a[len(a) - end :]
    b = b[begin : len(b) - end]
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=len(a) * len(b) > SLOW)
    middle = [(tag == "equal", "".join(a[i:j]), "".join(b[k:m])) for tag, i, j, k, m in matcher.get_opcodes()]
    return [(True, "".join(start), "".join(start)), *middle, (True, "".join(rest), "".join(rest))]


def _same(a: Sequence[str], b: Sequence[str]) -> int:
    """How many units both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _pieces(blocks: Marked) -> Marked:
    """Neighbours joined, none empty; a space between two differences is part of them."""
    blocks = [(differs, text) for differs, text in blocks if text]
    return [(differs, "".join(text for _, text in run)) for differs, run in groupby(_bridged(blocks), lambda b: b[0])]


def _bridged(pieces: Marked) -> Iterator[tuple[bool, str]]:
    for i, (differs, text) in enumerate(pieces):
        between = 0 < i < len(pieces) - 1 and pieces[i - 1][0] and pieces[i + 1][0]
        yield differs or (between and text.isspace()), text
