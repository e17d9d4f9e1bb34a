"""The loss of a whole run as a small picture of block characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.text import Text

BLOCKS = " ▁▂▃▄▅▆▇█"
MARK, BEST = "●", "◆"
HIGH, LOW = (236, 110, 173), (52, 148, 230)
"""Colours of a high and a low loss; readable on light and dark backgrounds."""


class Validation(NamedTuple):
    """One point of the held-out loss."""

    step: int
    loss: float
    best: bool


def loss_plot(
    losses: Sequence[tuple[int, float]],
    validations: Sequence[Validation],
    steps: int,
    width: int,
    height: int,
) -> Text:
    """``height`` lines of at most ``width`` cells, the run from step 0 to ``steps`` from left to right.

    Columns are the mean of the losses that fall into them; the newest best validation is a ◆.
    """
    labels = _Scale.label_width(losses, validations)
    columns = max(width - labels - 2, 8)
    means = resample(losses, steps, columns)
    scale = _Scale.of(means, [v.loss for v in validations], height)
    cells = [[(" ", "")] * columns for _ in range(height)]  # row 0 is the lowest
    for column, mean in enumerate(means):
        if mean is not None:
            for row in range(height):
                cells[row][column] = (
                    BLOCKS[min(max(scale.eighths(mean) - 8 * row, 0), 8)],
                    _colour(row, height),
                )
    for step, loss, best in _marks(validations):
        column, row = _column(step, steps, columns), min((scale.eighths(loss) - 1) // 8, height - 1)
        below, colour = cells[row][column]
        behind = f" on {colour}" if below == "█" else ""
        cells[row][column] = (
            BEST if best else MARK,
            f"bold {'yellow' if best else 'white' if behind else 'default'}{behind}",
        )
    return _assemble(cells, scale, labels)


def resample(losses: Sequence[tuple[int, float]], steps: int, columns: int) -> list[float | None]:
    """The mean loss of each column; a column between two known ones lies on the line between them, and
    those after the last step are None."""
    sums, counts = [0.0] * columns, [0] * columns
    for step, loss in losses:
        column = _column(step, steps, columns)
        sums[column] += loss
        counts[column] += 1
    means: list[float | None] = [s / n if n else None for s, n in zip(sums, counts, strict=True)]
    known = [c for c in range(columns) if counts[c]]
    for left, right in pairwise(known):
        start, end = sums[left] / counts[left], sums[right] / counts[right]
        for column in range(left + 1, right):
            means[column] = start + (end - start) * (column - left) / (right - left)
    if known and known[0] and len(losses) < steps:
        means[: known[0]] = [means[known[0]]] * known[0]  # the first step may lie right of the first column
    return means


class _Scale(NamedTuple):
    low: float
    high: float
    height: int

    @classmethod
    def of(cls, means: Sequence[float | None], validations: Sequence[float], height: int) -> _Scale:
        """From the lowest to nearly the highest value: a few wild first steps must not flatten the rest."""
        values = sorted(mean for mean in means if mean is not None)
        tops = [*values[: max(1, round(len(values) * 0.97))][-1:], *validations]
        lows = [*values[:1], *validations]
        low, high = min(lows, default=0.0), max(tops, default=1.0)
        return cls(low, high if high - low > 1e-6 else low + 1.0, height)

    def eighths(self, value: float) -> int:
        """Height of a column in eighths of a cell, from 1 up."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return 1 + round(share * (8 * self.height - 1))

    @staticmethod
    def label_width(losses: Sequence[tuple[int, float]], validations: Sequence[Validation]) -> int:
        top = max((v for _, v, *_ in (*losses, *validations)), default=0.0)
        return len(f"{top:.2f}")


def _marks(validations: Sequence[Validation]) -> list[Validation]:
    """Only the newest best is the best; it is drawn last, over its neighbours."""
    newest = next((v for v in reversed(validations) if v.best), None)
    others = [v._replace(best=False) for v in validations if v is not newest]
    return [*others, newest] if newest else others


def _column(step: int, steps: int, columns: int) -> int:
    return min(max(step - 1, 0) * columns // max(steps, 1), columns - 1)


def _colour(row: int, height: int) -> str:
    share = row / max(height - 1, 1)
    red, green, blue = (round(low + (high - low) * share) for high, low in zip(HIGH, LOW, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _assemble(cells: list[list[tuple[str, str]]], scale: _Scale, labels: int) -> Text:
    plot = Text(no_wrap=True)
    for row in reversed(range(scale.height)):
        label = {scale.height - 1: f"{scale.high:.2f}", 0: f"{scale.low:.2f}"}.get(row, "")
        plot.append(f"{label:>{labels}} {'┤' if label else '│'}", "dim")
        for character, style in cells[row]:
            plot.append(character, style)
        plot.append("\n" if row else "")
    return plot
