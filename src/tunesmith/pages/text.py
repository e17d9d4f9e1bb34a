"""Somebody's text where people look at it: harmless to a terminal and a page, in the letters of its language."""

from __future__ import annotations

import re
from typing import Any

WIDE = "\u2e80-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Characters that take two cells and are words of their own, for a class of a regular expression."""

PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD) | {0x7F: 0x2421}
"""Control characters as their pictures: an escape sequence in somebody's data must not drive the terminal."""

INVISIBLE = [0x61C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF,
             *range(0xE0000, 0xE0080)]  # fmt: skip
HARMLESS = PICTURES | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD) | {c: f"⟨U+{c:04X}⟩" for c in INVISIBLE}
"""Control characters, halves of surrogate pairs and marks that turn or hide text, as something to see."""


def harmless(value: Any) -> Any:
    """``value``; in a text, what could turn, hide or break the page stands as something to see."""
    return value.translate(HARMLESS) if type(value) is str else value


def language(text: str) -> str:
    """For the attribute ``lang``: which letters a browser should draw; empty where any will do."""
    if re.search("[\u3040-\u30ff]", text):
        return "ja"
    if re.search("[\uac00-\ud7af]", text):
        return "ko"
    return "zh" if re.search("[\u3400-\u9fff\U00020000-\U0003ffff]", text) else ""


def brief(text: str) -> str:
    """The beginning of a text in one line."""
    line = " ".join(text[:400].split())
    return line if len(line) <= 90 else line[:90] + "…"
