"""Lines broken where readers expect it, Chinese among Latin words included.

rich breaks at spaces only: a Chinese sentence is one word to it, and the English word after it is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from tunesmith.pages.text import WIDE

CLOSING = "，。、；：！？）】》」』〉”’…"
"""Punctuation that must not begin a line."""
UNITS = re.compile(rf"[ \t]+|[{WIDE}][{CLOSING}]*|[^\s{WIDE}]+(?: %[^\s{WIDE}]*)?[{CLOSING}]*")
"""What is not broken; a number and its % stay on one line."""


class Prose:
    """Text in one style that wraps at spaces and between Chinese characters."""

    def __init__(self, text: str, style: str = "") -> None:
        self.text, self.style = text.replace("\t", "    "), style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in wrap(self.text, options.max_width):
            yield Text(line, self.style, no_wrap=True, overflow="ignore")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = max((cell_len(line) for line in self.text.split("\n")), default=0)
        return Measurement(min(widest, 2), widest).with_maximum(options.max_width)


def wrap(text: str, width: int) -> Iterator[str]:
    """Lines of at most ``width`` cells; only a unit wider than that is cut, a path behind a slash if it has one."""
    width = max(width, 2)
    for paragraph in text.split("\n"):
        line = ""
        for unit in UNITS.findall(paragraph):
            if cell_len(line) + cell_len(unit) <= width:
                line += unit
                continue
            if line.strip():
                yield line.rstrip()
            *whole, line = _cut(unit, width) if not unit.isspace() else [""]
            yield from whole
        yield line.rstrip()


def _cut(unit: str, width: int) -> list[str]:
    lines = [""]
    for part in re.findall("[^/]*/+|[^/]+", unit):
        if cell_len(lines[-1]) + cell_len(part) <= width:
            lines[-1] += part
        else:
            lines += chop_cells(part, width)
    return [line for line in lines if line]
