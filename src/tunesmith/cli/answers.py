"""The answers of base and tuned model side by side, or one above the other where it is narrow."""

from __future__ import annotations

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tunesmith.cli.console import visible
from tunesmith.cli.prose import Prose, wrap

NARROW = 60
"""With fewer cells two columns would hold a few words each."""
STYLES = {"base": "yellow", "tuned": "green"}


class Answers:
    """Both answers; ✓ where one is the reference, word for word. While they are ``writing``, only the ends of long ones
    are shown: what moves must fit on the screen."""

    def __init__(self, base: str = "", tuned: str = "", reference: str | None = None, *, writing: str = "") -> None:
        self.texts = {"base": base, "tuned": tuned}
        self.reference, self.writing = reference, writing
        self.stopped = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < NARROW:
            for name in self.texts:
                yield self.title(name)
                yield self._text(name, console.height // 2 - 3)
            return
        table = Table(box=box.ROUNDED, border_style="dim", expand=True)
        for name in self.texts:
            table.add_column(self.title(name), ratio=1)
        table.add_row(*(self._text(name, console.height - 6) for name in self.texts))
        yield table

    def title(self, name: str) -> Text:
        same = self.reference is not None and self.texts[name].split() == self.reference.split()
        return Text(name + (" ✓" if same else ""), f"bold {STYLES[name]}")

    def _text(self, name: str, most: int) -> RenderableType:
        text = visible(self.texts[name].strip())
        if self.writing:
            return _End(text + ("▌" if self.writing == name else ""), max(most, 1))
        return Prose(text) if text else Text("(stopped)" if self.stopped else "(nothing)", "dim")


class _End:
    """The last lines of a text that is being written."""

    def __init__(self, text: str, most: int) -> None:
        self.text, self.most = text, most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in list(wrap(self.text, options.max_width))[-self.most :]:
            yield Text(line, no_wrap=True, overflow="ignore")
