"""The curves of a training, read from progress.jsonl: once as a whole, then only what was added."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tunesmith.run import RunFolder
from tunesmith.studio.context import Project

MEASURES = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory")
"""What every step says, in the order of a point: [step, *MEASURES]."""
_MEASURED = itemgetter("step", *MEASURES)
SILENT = ("step", "working", "asked")
"""Events that are no line of the log."""
LINES = 300
"""The newest so many lines of the log are kept."""
POINTS = {"loss": 2000}
FEW = 400
"""Points that a curve is drawn with: the large one, and the small ones, which are 400 pixels wide."""
PIECE = 1 << 23
OPEN = 8
"""So many runs' curves are kept; the one that was looked at longest ago goes."""


@dataclass
class News:
    """What was added to a progress file. forget: steps behind it are taken again, or None."""

    points: list[list[float | None]] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    forget: int | None = None
    last: dict[str, Any] = field(default_factory=dict)
    """The newest event."""

    def take(self, events: Sequence[dict[str, Any]]) -> None:
        """Add these, in their order. In a few passes over many: a training may have taken 100,000 steps."""
        self.last = events[-1] if events else self.last
        self.log += [event for event in events if event.get("event") not in SILENT]
        training = [e for e in events if e.get("stage") == "train" and type(e.get("step")) is int]
        begin = 0
        for at in [i for i, event in enumerate(training) if event.get("event") == "start"]:
            self._add(training[begin:at])
            self._forget_behind(training[at]["step"])
            begin = at
        self._add(training[begin:])

    def _add(self, training: Sequence[dict[str, Any]]) -> None:
        self.points += [_point(event) for event in training if event["event"] == "step"]
        self.validations += [
            (e["step"], e["loss"]) for e in training if e["event"] == "validation" and _is_number(e.get("loss"))
        ]

    def _forget_behind(self, step: int) -> None:
        self.forget = step if self.forget is None else min(step, self.forget)
        self.points = [point for point in self.points if (point[0] or 0) <= step]
        self.validations = [point for point in self.validations if point[0] <= step]


def _point(event: dict[str, Any]) -> list[float | None]:
    try:
        point = list(_MEASURED(event))
    except KeyError:
        point = [event.get(name) for name in ("step", *MEASURES)]
    return point if all(map(_is_number, point)) else [value if _is_number(value) else None for value in point]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


class Tail:
    """The complete lines behind a byte offset of a file that grows."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> News | None:
        """What is new since the last call; None where the file has become another, shorter one."""
        news = News()
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self.offset:
                    return None
                file.seek(self.offset)
                while piece := file.read(PIECE):
                    whole = piece.rfind(b"\n") + 1
                    if not whole:
                        break  # half a line: it is read when its end is there
                    news.take(events(piece[:whole]))
                    self.offset += whole
                    file.seek(self.offset)
        except FileNotFoundError:
            pass
        return news


def events(lines: bytes) -> list[dict[str, Any]]:
    """The JSON objects of these lines. All at once, which is twice as fast; one by one where a line is damaged."""
    try:
        found = orjson.loads(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]")
    except ValueError:
        found = list[Any]()
        for line in lines.split(b"\n"):
            try:
                found.append(orjson.loads(line))
            except ValueError:
                continue
    return [event for event in found if isinstance(event, dict) and "event" in event]


class Curves:
    """Everything of one run that is drawn. `update` reads what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._tail = Tail(self._path)
        self._points = np.empty((0, 1 + len(MEASURES)))
        self._validations: list[tuple[int, float]] = []
        self.log = deque[dict[str, Any]](maxlen=LINES)

    @property
    def offset(self) -> int:
        """Bytes of the file that are in the curves."""
        return self._tail.offset

    def update(self) -> None:
        news = self._tail.read()
        if news is None:
            self._begin()
            news = self._tail.read() or News()
        if news.forget is not None:
            self._points = self._points[self._points[:, 0] <= news.forget]
            self._validations = [point for point in self._validations if point[0] <= news.forget]
        if news.points:
            self._points = np.concatenate([self._points, np.array(news.points, float)])
        self._validations += news.validations
        self.log.extend(news.log)

    def to_json(self) -> dict[str, Any]:
        """{measure: [steps, values], "validation": …}; at most `POINTS` of each."""
        steps = self._points[:, 0]
        curves = {
            name: thinned(steps, self._points[:, 1 + i], POINTS.get(name, FEW)) for i, name in enumerate(MEASURES)
        }
        steps, losses = np.array(self._validations, float).reshape(-1, 2).T
        return {**curves, "validation": thinned(steps, losses, POINTS["loss"])}


_one_at_a_time = threading.Lock()


def drawn(project: Project, run: RunFolder) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """(bytes that were read, `Curves.to_json`, events of the log) of the run up to now. Only what is new is read:
    100,000 steps take 0.4 s the first time, and 0.02 s again."""
    with _one_at_a_time:
        kept: dict[str, Curves] = project.kept.setdefault("curves", {})
        curves = kept.pop(str(run), None) or Curves(run.path / "progress.jsonl")
        curves.update()
        kept[str(run)] = curves  # the newest last
        while len(kept) > OPEN:
            del kept[next(iter(kept))]
        return curves.offset, curves.to_json(), list(curves.log)


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> list[list[float]]:
    """[x, y] with at most ``most`` points: of every stretch the lowest and the highest, so that no peak is lost; and
    the first and the newest."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) > most:
        buckets = most // 2 - 1
        size = -(-len(x) // buckets)
        padded = np.full(buckets * size, np.nan)
        padded[: len(y)] = y
        rows = padded.reshape(buckets, size)
        rows = rows[: -(-len(y) // size)]
        first = np.arange(len(rows)) * size
        ends = np.array([0, len(x) - 1])
        chosen = np.unique(np.concatenate([ends, first + np.nanargmin(rows, 1), first + np.nanargmax(rows, 1)]))
        x, y = x[chosen], y[chosen]
    return [[int(step) for step in x], rounded(y)]


def rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """Five digits: more cannot be seen, and would be most of what is sent."""
    return [float(f"{value:.5g}") for value in values]
