"""The loss on the validation rows against each setting of a sweep: in the terminal, and as an SVG image."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from tunesmith.cli.console import visible
from tunesmith.cli.plot import BEST, MARK
from tunesmith.pages.text import harmless
from tunesmith.stages.grid import short_names, show

Dot = tuple[float, str, bool]
"""The loss of a run, its name, and whether it is the best."""


class Panel(NamedTuple):
    """One setting: for each of its values what is written there, and the runs with it."""

    title: str
    values: list[tuple[str, list[Dot]]]


def panels(comparison: dict[str, Any]) -> list[Panel]:
    """Of the runs that have a loss; none where there are less than two."""
    runs = [run for run in comparison["runs"] if run["valid_loss"] is not None]
    short = short_names(comparison["settings"])
    if len(runs) < 2:
        return []

    def dots(name: str, value: Any) -> list[Dot]:
        there = [run for run in runs if run["settings"][name] == value]
        return [(run["valid_loss"], run["run"], run["run"] == comparison["best"]) for run in there]

    settings: dict[str, Sequence[Any]] = comparison["settings"]
    return [
        Panel(short[name], [(show(value), dots(name, value)) for value in values]) for name, values in settings.items()
    ]


def _range(drawn: Sequence[Panel]) -> tuple[float, float]:
    losses = [loss for panel in drawn for _, dots in panel.values for loss, _, _ in dots]
    low, high = min(losses), max(losses)
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)


# -- in the terminal -----------------------------------------------------------------------------


def strips(drawn: Sequence[Panel], width: int) -> Text:
    """A line for each value, with a dot for each run: the farther left, the lower its loss."""
    low, high = _range(drawn)
    labels = [(visible(panel.title), visible(value)) for panel in drawn for value, _ in panel.values]
    titles, values = (min(max(cell_len(label[i]) for label in labels), 16) for i in (0, 1))
    columns = max(min(width - titles - values - 4, 60), 10)
    ends = f"{low:.3f}", f"{high:.3f}"
    plot = Text(no_wrap=True, overflow="crop")
    plot.append(" " * (titles + values + 3))
    plot.append(ends[0] + ends[1].rjust(max(columns - len(ends[0]), 0)), "dim")
    for panel in drawn:
        for place, (value, dots) in enumerate(panel.values):
            title = visible(panel.title) if place == 0 else ""
            plot.append(f"\n{set_cell_size(title, titles)} ", "dim")
            plot.append(f"{set_cell_size(visible(value), values)}  ")
            cells: list[tuple[str, str]] = [("·", "dim")] * columns
            for loss, _, best in sorted(dots, key=lambda dot: dot[2]):  # the best is drawn over the others
                column = round((loss - low) / (high - low) * (columns - 1))
                cells[column] = (BEST, "bold yellow") if best else (MARK, "cyan")
            for character, style in cells:
                plot.append(character, style)
    return plot


# -- as an image ---------------------------------------------------------------------------------

WIDTH, HEIGHT, ACROSS = 340, 260, 3
LEFT, TOP, RIGHT, BOTTOM = 56, 40, 14, 40
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600 } .axis { stroke: #999 } .grid { stroke: #ddd }
.low { fill: none; stroke: #3494e6; stroke-width: 1.5 } .run { fill: #3494e6 } .best { fill: #d97706 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .grid { stroke: #444 } .paper { fill: #1b1b1b } }
"""


def sweep_svg(comparison: dict[str, Any]) -> str:
    """An image that needs nothing else: a panel for each setting, a dot for each run, a line through the lowest."""
    drawn = panels(comparison)
    across, down = max(1, min(len(drawn), ACROSS)), max(1, -(-len(drawn) // ACROSS))
    width, height = across * WIDTH, down * HEIGHT + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}" fill="#fff"/>',
        _text(LEFT, 18, "loss on the validation rows", "title") if drawn else _text(20, 40, "no two runs to compare"),
    ]
    if drawn:
        low, high = _range(drawn)
        room = 0.06 * (high - low)
        for number, panel in enumerate(drawn):
            x, y = number % ACROSS * WIDTH, number // ACROSS * HEIGHT + 20
            parts += [f'<g transform="translate({x} {y})">', *_panel(panel, low - room, high + room), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, low: float, high: float) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(loss: float) -> float:
        return round(bottom - (loss - low) / (high - low) * (bottom - TOP), 1)

    for tick in range(5):
        loss = low + (high - low) * tick / 4
        yield f'<line class="grid" x1="{LEFT}" y1="{at(loss)}" x2="{right}" y2="{at(loss)}"/>'
        yield _text(LEFT - 6, at(loss) + 4, f"{loss:.3f}", anchor="end")
    yield f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 6, panel.title, "title", "middle")
    step = (right - LEFT) / len(panel.values)
    most = max(int(step / 7), 3)  # characters below a value
    lowest = []
    for place, (value, dots) in enumerate(panel.values):
        x = round(LEFT + step * (place + 0.5), 1)
        label = value if len(value) <= most else value[: most - 1] + "…"
        yield _text(x, bottom + 16, label, anchor="middle", hint=value)
        if dots:
            lowest.append(f"{x},{at(min(loss for loss, _, _ in dots))}")
    yield f'<polyline class="low" points="{" ".join(lowest)}"/>'
    for place, (_, dots) in enumerate(panel.values):
        x = round(LEFT + step * (place + 0.5), 1)
        for loss, name, best in sorted(dots, key=lambda dot: dot[2]):
            said = f"<title>{_safe(name)}: {loss:.4f}{', the best' if best else ''}</title>"
            y, kind, r = at(loss), "best" if best else "run", 5 if best else 4
            yield f'<circle class="{kind}" cx="{x}" cy="{y}" r="{r}">{said}</circle>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", hint: str = "") -> str:
    title = f"<title>{_safe(hint)}</title>" if hint else ""
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{title}{_safe(text)}</text>'


def _safe(text: str) -> str:
    return html.escape(harmless(text))
