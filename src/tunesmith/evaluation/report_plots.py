"""Plots as SVG, drawn by hand: inside a page, where its style colours them, and as files that stand alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from tunesmith.pages.text import WIDE, harmless

COLOURS = {
    "paper": ("#ffffff", "#14171c"), "ink": ("#1b1f24", "#e6e8eb"), "dim": ("#57606a", "#a2abb6"),
    "grid": ("#d8dee4", "#30363d"), "base": ("#7d8590", "#8b949e"), "tuned": ("#0072b2", "#56b4e9"),
    "base-retrieval": ("#a65300", "#e69f00"), "tuned-retrieval": ("#00735a", "#2cc4a0"),
    "valid": ("#c04a00", "#f0a050"), "chosen": ("#1b1f24", "#e6e8eb"),
}  # fmt: skip
"""By class: on light and on dark paper. Blue, orange and green of Okabe and Ito's set, which the colour-blind can tell
apart; nothing is told by colour alone."""


def _rules(scheme: int) -> str:
    return "".join(f".plot .{name}{{fill:{pair[scheme]};stroke:{pair[scheme]}}}" for name, pair in COLOURS.items())


STYLE = f"""{_rules(0)}
@media (prefers-color-scheme: dark) {{ {_rules(1)} }}
.plot {{ font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans CJK SC", sans-serif;
  font-variant-numeric: tabular-nums; }}
.plot .said, .plot .bar, .plot .paper {{ stroke: none; }}
.plot .bar {{ opacity: .85; }} .plot .heading {{ font-weight: 600; }}
.plot .curve, .plot .raw {{ fill: none; stroke-width: 2.2; stroke-linejoin: round; }}
.plot .raw {{ stroke-width: 1; opacity: .4; }}
.plot .dashed {{ stroke-dasharray: 6 4; }} .plot .fine {{ stroke-width: 1.5; }}"""

WIDE_CHARACTER = re.compile(f"[{WIDE}]")
LOGARITHMIC = 10
"""A loss whose highest value is more than so many times the lowest is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Plot:
    """A drawing of so many pixels, and what it shows in a sentence."""

    label: str
    width: float
    height: float
    content: str

    def __html__(self) -> str:
        """As templates take it: within a page that has `STYLE`."""
        return f"<svg {self._attributes(0)}>{self.content}</svg>"

    def alone(self) -> str:
        """As a file, with its own colours and paper."""
        paper = _tag("rect", x=-16.0, y=-16.0, width=self.width + 32, height=self.height + 32, class_="paper")
        style = f"<style>{STYLE}</style>"
        return f'<svg xmlns="http://www.w3.org/2000/svg" {self._attributes(16)}>{style}{paper}{self.content}</svg>\n'

    def _attributes(self, margin: int) -> str:
        width, height = self.width + 2 * margin, self.height + 2 * margin
        return (
            f'class="plot" viewBox="{-margin} {-margin} {width:g} {height:g}" width="{width:g}" height="{height:g}" '
            f'role="img" aria-label="{escape(harmless(self.label))}"'
        )


class Line(NamedTuple):
    """A curve, its class of colour, and how it is drawn: classes of `STYLE`."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    drawn: str = "curve"
    dots: bool = False


class Bar(NamedTuple):
    """A value with its 95 % interval, from 0 to 1; ``said`` and ``more`` stand beside it, where there is room."""

    name: str
    kind: str
    value: float
    interval: Sequence[float] | None
    said: str
    more: str = ""


class Group(NamedTuple):
    """Bars under one heading."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Scale:
    """Values to pixels from 0 to ``length``."""

    low: float
    high: float
    length: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], length: float) -> Scale:
        """For losses: a twentieth of room on both sides, logarithmic where they differ by orders."""
        low, high = min(values), max(values)
        if low > 0 and high / low > LOGARITHMIC:
            room = (high / low) ** 0.05
            return cls(low / room, high * room, length, log=True)
        room = max(0.05 * (high - low), 0.005 * abs(high)) or 0.5  # losses that are almost the same are drawn as such
        return cls(low - room, high + room, length)

    def at(self, value: float) -> float:
        if self.log:
            value = max(value, self.low / 10)  # zero has no logarithm; it is cut off below the plot
            return self.length * math.log(value / self.low) / math.log(self.high / self.low)
        return self.length * (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """At most about so many round values, and how they are written."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) > 2 * most:
                found = [value for value in found if round(math.log10(value), 9).is_integer()]
            return [(value, f"{value:g}") for value in found]
        rough = (self.high - self.low) / max(most, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(k * step, f"{k * step:,.{decimals}f}") for k in range(first, last + 1)]


# -- curves --------------------------------------------------------------------------------------


def line_plot(
    label: str, axis: str, lines: Sequence[Line], width: int, chosen: tuple[int, float | None] | None
) -> Plot:
    """Losses by step; ``axis`` says what is drawn upwards, ``chosen`` is the step of the adapter that is used, with
    its loss. Lines whose class is "raw" may leave the plot: a few wild batches must not flatten the rest."""
    height = min(max(width // 2, 240), 340)
    legend, below = _legend(lines, width, 28)
    top, bottom = below + 22, height - 38
    last = max(1, *(step for line in lines for step, _ in line.points))
    widest = max(text_width(text) for _, text in Scale(0, last, 1).ticks(4))
    up = Scale.of(_bounds(lines), bottom - top)
    marks = up.ticks(6)
    left = max(text_width(text) for _, text in marks) + 8
    right = width - widest / 2 - 2
    steps = Scale(0, last, right - left)
    parts = [_text(0, 11, axis + (", logarithmic" if up.log else ""), "dim"), *legend]
    for value, text in marks:
        y = bottom - up.at(value)
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, text, "dim", "end")]
    for value, text in steps.ticks(max(int((right - left) // 90), 2)):
        x = left + steps.at(value)
        parts += [_line(x, bottom, x, bottom + 4, "dim"), _text(x, bottom + 18, text, "dim", "middle")]
    parts += [_line(left, bottom, right, bottom, "dim"), _text(right, height - 4, "step", "dim", "end")]

    def placed(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(steps.at(x), bottom - top - up.at(y)) for x, y in points]

    curves = "".join(_curve(line, placed(line.points)) for line in lines)
    # An svg within the svg cuts off what leaves it, without a url() that a page's policy would have to allow.
    room = f'width="{right - left + 12:.1f}" height="{bottom - top + 12}"'
    parts.append(
        f'<svg x="{left - 6:.1f}" y="{top - 6}" {room} viewBox="-6 -6 {right - left + 12:.1f} {bottom - top + 12}" '
        f'overflow="hidden">{curves}</svg>'
    )
    if chosen:
        at = None if chosen[1] is None else bottom - up.at(chosen[1])
        parts += _chosen(chosen[0], left + steps.at(chosen[0]), at, (left, right, top, bottom))
    return Plot(label, width, height, "".join(parts))


def _bounds(lines: Sequence[Line]) -> list[float]:
    """The values that have to be seen: all but the wildest of raw curves."""
    values = list[float]()
    for line in lines:
        found = sorted(value for _, value in line.points)
        spared = len(found) // 50 if line.drawn == "raw" else 0
        values += found[spared : len(found) - spared]
    return values


def _curve(line: Line, points: list[tuple[float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [_tag("circle", cx=x, cy=y, r=3.5, class_=line.kind) for x, y in points] if line.dots else []
    return _tag("polyline", points=path, class_=f"{line.kind} {line.drawn}") + "".join(dots)


def _legend(lines: Sequence[Line], width: float, y: float) -> tuple[list[str], float]:
    """The names of the lines beside a piece of each, and where the legend ends."""
    parts, x = list[str](), 0.0
    for line in lines:
        needed = 31 + text_width(line.name)
        if x and x + needed > width:
            x, y = 0.0, y + 18
        parts.append(_curve(line, [(x + 4, y - 4), (x + 24, y - 4)]))
        parts.append(_text(x + 31, y, line.name, "ink"))
        x += needed + 16
    return parts, y


def _chosen(step: int, x: float, y: float | None, area: tuple[float, float, float, float]) -> list[str]:
    """The mark of the chosen step: a line, a diamond on the curve, and its name on the side that has room."""
    left, right, top, bottom = area
    early = x < (left + right) / 2
    said = _text(x - 4 if early else x + 4, top - 6, f"chosen: step {step:,}", "ink", "start" if early else "end")
    parts = [_line(x, top - 2, x, bottom, "chosen dashed fine"), said]
    if y is not None:
        shape = f"{x:.1f},{y - 7:.1f} {x + 7:.1f},{y:.1f} {x:.1f},{y + 7:.1f} {x - 7:.1f},{y:.1f}"
        parts.append(_tag("polygon", points=shape, class_="chosen"))
    return parts


# -- intervals -----------------------------------------------------------------------------------

ROW, HEADING = 26, 24
"""Pixels that a bar and a heading take."""


def interval_plot(label: str, groups: Sequence[Group], width: int, *, differences: bool = False) -> Plot:
    """Scores as bars from 0 to 100 %, or differences as points beside a line at 0; whiskers are the intervals."""
    bars = [bar for group in groups for bar in group.bars]
    saying = [f"{bar.said}  {bar.more}" if width >= 560 else bar.said for bar in bars]
    left = max(text_width(bar.name) for bar in bars) + 10
    right = width - max(text_width(said) for said in saying) - 12
    scale = _domain(bars, right - left) if differences else Scale(0, 1, right - left)
    ticks = scale.ticks(max(int((right - left) // (70 if differences else 55)), 2))
    parts, y, said = list[str](), 0.0, iter(saying)
    for group in groups:
        parts.append(_text(0, y + 14, group.title, "ink heading"))
        y += HEADING
        for value, _ in ticks:
            x = left + scale.at(value)
            parts.append(
                _line(x, y, x, y + ROW * len(group.bars), "dim" if differences and abs(value) < 1e-9 else "grid")
            )
        for bar in group.bars:
            parts += _bar(bar, next(said), left, right, y, scale, point=differences)
            y += ROW
        y += 8
    for value, _ in ticks:
        text = points(value, 0) if differences else f"{100 * value:.0f} %"
        parts.append(_text(left + scale.at(value), y + 8, text, "dim", "middle"))
    return Plot(label, width, y + 14, "".join(parts))


def _domain(bars: Sequence[Bar], length: float) -> Scale:
    """Wide enough for every interval and for 0, and never so narrow that a point looks large."""
    ends = [end for bar in bars for end in (bar.value, *(bar.interval or ()))]
    low, high = min(*ends, -0.02), max(*ends, 0.02)
    room = 0.06 * (high - low)
    return Scale(low - room, high + room, length)


def _bar(bar: Bar, said: str, left: float, right: float, y: float, scale: Scale, *, point: bool) -> list[str]:
    middle, end = y + ROW / 2, left + scale.at(bar.value)
    parts = [_text(left - 10, middle + 4, bar.name, "ink", "end"), _text(right + 10, middle + 4, said, "ink")]
    if point:
        parts.append(_tag("circle", cx=end, cy=middle, r=5.0, class_=bar.kind))
    else:
        parts.append(
            _tag("rect", x=left, y=middle - 8, width=max(end - left, 1.0), height=16.0, class_=f"{bar.kind} bar")
        )
    if bar.interval:
        low, high = (left + scale.at(value) for value in bar.interval)
        parts.append(_line(low, middle, high, middle, "ink fine"))
        parts += [_line(x, middle - 5, x, middle + 5, "ink fine") for x in (low, high)]
    return parts


# -- pieces --------------------------------------------------------------------------------------


def points(share: float, decimals: int = 1) -> str:
    """A difference of two shares in percentage points, with its sign: +4.0, −0.3, 0.0."""
    text = f"{100 * share:+.{decimals}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def text_width(text: str) -> float:
    """About how many pixels a text takes; rather too many."""
    wide = len(WIDE_CHARACTER.findall(text))
    return 12 * wide + 6.9 * (len(text) - wide)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return _tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=f"{kind} said")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return _tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)


def _tag(name: str, text: str = "", /, **attributes: float | str) -> str:
    """An element; the attribute ``text_anchor`` is written text-anchor, ``class_`` class."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value) if isinstance(value, str) else f"{value:.1f}"}"'
        for key, value in attributes.items()
    )
    return f"<{name}{given}>{escape(harmless(text))}</{name}>" if text else f"<{name}{given}/>"
