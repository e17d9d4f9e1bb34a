"""What a run's events add up to: the curve so far, the newest readings, the stage at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tunesmith.cli.plot import Validation
from tunesmith.progress import Progress


@dataclass
class ProgressState:
    """Takes events one by one; holds nothing that is not in them, but when they came."""

    clock: Callable[[], float] = time.monotonic
    stage: str = ""
    began: float = 0.0
    step: int = 0
    steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    latest: Progress | None = None
    """The newest optimizer step."""
    latest_at: float = 0.0
    asked: Progress | None = None
    """How far a teacher is."""
    working: Progress | None = None
    """What goes on inside a step or a stage, until the next event."""
    working_since: tuple[str, float, int] = ("", 0.0, 0)
    """What it is, when it began, and how much of it was done by then."""
    saved: str = ""
    """The newest checkpoint."""

    def recall(self, events: Iterable[Progress]) -> None:
        """Take the curve of an earlier part of the run, but none of its readings."""
        for event in events:
            if event.event in ("start", "step", "validation"):
                self.take(event)
        self.latest, self.working, self.stage, self.step = None, None, "", 0
        self.began = self.clock()

    def take(self, progress: Progress) -> None:
        """Bring the state up to date with one event."""
        if progress.event == "working" and progress.message != self.working_since[0]:
            self.working_since = progress.message, self.clock(), progress.done or 0
        if progress.event != "note":
            self.working = progress if progress.event == "working" else None
        if progress.event != "note":
            self.asked = progress if progress.event == "asked" else None
        if progress.event == "stage":
            self.stage, self.began, self.latest = progress.stage, self.clock(), None
        if progress.step is not None and progress.stage == "train":
            self.step, self.steps = progress.step, progress.steps or self.steps
        if progress.event == "start":
            self._forget_after(progress.step or 0)
        elif progress.event == "step" and progress.loss is not None:
            self.losses.append((self.step, progress.loss))
            self.latest, self.latest_at = progress, self.clock()
        elif progress.event == "validation" and progress.loss is not None:
            self.validations.append(Validation(self.step, progress.loss, bool(progress.best)))
        elif progress.event == "checkpoint":
            self.saved = progress.message

    def _forget_after(self, step: int) -> None:
        """A run that continues after a crash takes some steps again."""
        self.losses = [point for point in self.losses if point[0] <= step]
        self.validations = [v for v in self.validations if v.step <= step]

    @property
    def stage_seconds(self) -> float:
        return self.clock() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Counts down between two steps."""
        if self.latest is None or self.latest.seconds_left is None:
            return None
        return max(self.latest.seconds_left - (self.clock() - self.latest_at), 0.0)

    @property
    def working_left(self) -> float | None:
        """Seconds until what goes on is done, at its pace so far; None before two seconds have shown a pace."""
        now, (_, since, before) = self.working, self.working_since
        seconds = self.clock() - since
        if now is None or not now.total or seconds < 2 or (now.done or 0) <= before:
            return None
        return seconds * (now.total - (now.done or 0)) / ((now.done or 0) - before)

    @property
    def best(self) -> Validation | None:
        return next((v for v in reversed(self.validations) if v.best), None)

    def smooth_loss(self, points: int = 20) -> float | None:
        """Mean of the last losses: one batch says little."""
        recent = [loss for _, loss in self.losses[-points:]]
        return sum(recent) / len(recent) if recent else None
