"""A picture of a terminal, from what stands in it: tmux capture-pane -e -p | python tools/picture.py TITLE FILE.svg"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.console import Console

MOST_BYTES = 60_000
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace"


def picture(screen: str, title: str) -> str:
    """An SVG of text with escape sequences, which loads nothing from anywhere: rich's own names a font on the net."""
    lines = list(AnsiDecoder().decode(screen.rstrip()))  # a style goes on in the next line
    width = max(cell_len(line.plain.rstrip()) for line in lines)
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        line.rstrip()
        console.print(line, soft_wrap=True)
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)
    return re.sub(r"font-family: [^;]+;", f"font-family: {FONT};", drawn).replace("Fira Code", "monospace")


def main() -> int:
    title, path = sys.argv[1:]
    drawn = picture(sys.stdin.read(), title)
    if len(drawn.encode()) > MOST_BYTES:
        print(f"{path} would have {len(drawn.encode()):,} bytes; show less")
        return 1
    Path(path).write_text(drawn, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
