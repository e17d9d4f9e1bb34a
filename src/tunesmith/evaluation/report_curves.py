"""The loss of a training by step, as progress.jsonl tells it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith.progress import Progress

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """(step, loss) of the batches trained on and of the validations, and the step whose adapter was chosen."""

    train: list[tuple[int, float]]
    valid: list[tuple[int, float]]
    chosen: int | None

    @classmethod
    def of(cls, events: Iterable[Progress]) -> Curves:
        """Of all events of a run. A training that continues after a crash takes some steps again, and one that
        begins anew all of them: what was told of them before does not count."""
        train, valid, best = dict[int, float](), dict[int, float](), list[int]()
        for event in events:
            step = event.step or 0
            if event.event == "start" and event.stage == "train":
                train = {s: loss for s, loss in train.items() if s <= step}
                valid = {s: loss for s, loss in valid.items() if s <= step}
                best = [s for s in best if s <= step]
            elif event.loss is None or not math.isfinite(event.loss):
                continue
            elif event.event == "step":
                train[step] = event.loss
            elif event.event == "validation":
                valid[step] = event.loss
                best += [step] if event.best else []
        last = max(train, default=None)  # without validation rows the last step is what is used
        return cls(sorted(train.items()), sorted(valid.items()), best[-1] if best else None if valid else last)


def smooth(points: Points) -> tuple[list[tuple[float, float]], int]:
    """The mean around each point, and over how many: a twentieth of all, as single batches differ a lot."""
    reach = len(points) // 40
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    means = []
    for i, (step, _) in enumerate(points):
        first, last = max(i - reach, 0), min(i + reach + 1, len(points))
        means.append((step, (sums[last] - sums[first]) / (last - first)))
    return means, 2 * reach + 1


def thin(points: Points, most: int = 400) -> list[tuple[float, float]]:
    """At most ``most`` points that draw the same picture: of each run of neighbours the lowest and the highest."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = list[tuple[float, float]]()
    for begin in range(0, len(points), size):
        run = points[begin : begin + size]
        kept += sorted({min(run, key=lambda p: p[1]), max(run, key=lambda p: p[1])})
    return kept


def table(curves: Curves, most: int = 24) -> list[tuple[int, float | None, float | None]]:
    """(step, mean loss of the training around it, loss of the validation) at a few steps, for those who cannot see
    the plot."""
    means = dict(smooth(curves.train)[0])
    valid = dict(curves.valid)
    steps = list(valid) or list(means)
    return [
        (int(step), means.get(step), valid.get(int(step))) for step in steps[:: max(1, math.ceil(len(steps) / most))]
    ]
