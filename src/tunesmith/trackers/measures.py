"""The numbers of a training, read from its progress in one place, whatever they are sent to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe

OF_A_STEP = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory", "epoch")


@dataclass(frozen=True)
class Measure:
    """Named numbers of one step. What is measured of a whole model is ``final``: it is no point of a curve."""

    step: int
    values: dict[str, float]
    time: float
    final: bool = False


class Reader:
    """Turns events into measures. A measured model stands at the last step of the training before it."""

    def __init__(self) -> None:
        self._step = 0

    def read(self, event: Progress) -> Measure | None:
        """The numbers of an event, or None where it has none."""
        values: dict[str, float | None] = {}
        if event.stage == "train" and event.event == "step":
            values = {f"train/{name}": getattr(event, name) for name in OF_A_STEP}
        elif event.stage == "train" and event.event == "validation":
            values = {"valid/loss": event.loss}
        elif event.stage == "evaluate" and event.event == "measured":
            values = {f"test/{event.model}/loss": event.loss, f"test/{event.model}/score": event.score}
        self._step = event.step if event.step is not None else self._step
        found = {name: float(value) for name, value in values.items() if value is not None}
        return Measure(self._step, found, event.time or 0.0, event.event == "measured") if found else None


@dataclass(frozen=True)
class Training:
    """What a tracker is told of a training beside its numbers.

    ``id`` is of this training alone: continued it is the same, begun afresh in the same folder it is another.
    """

    name: str
    id: str
    folder: Path
    config: dict[str, Any]

    @classmethod
    def of(cls, folder: RunFolder, recipe: Recipe, begun: float) -> Training:
        name = folder.path.resolve().name
        model = {"name": Path(recipe.model.name).name, "precision": recipe.model.precision}  # not where it lies
        config = {"model": model, "train": recipe.train.model_dump(mode="json", exclude={"trackers"})}
        return cls(name, files.value_hash([name, begun])[:16], folder.path, config)


def this_training(folder: RunFolder) -> tuple[float, list[Progress]]:
    """When the training of a run began, and what happened since. A run folder remembers those before it too."""
    events = list(folder.events())
    starts = [i for i, e in enumerate(events) if e.event == "start" and e.stage == "train" and not e.step]
    events = events[starts[-1] :] if starts else events
    return (events[0].time or 0.0 if starts else 0.0), events
