"""The trackers: each takes measures, in a few lines. They are opened when there is a first number to send."""

from __future__ import annotations

import os
import shlex
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from tunesmith import files
from tunesmith.errors import TrackerError, first_line
from tunesmith.trackers.measures import Measure, Training

SECONDS_BETWEEN_FLUSHES = 2.0
"""A flush waits for the disk: not one at every step."""


class Tracker(ABC):
    package: ClassVar[str]
    whole: ClassVar[bool]
    """Whether it is given the training from its beginning each time it is opened; else only what is new."""
    place: str
    """Where a person finds what was sent: a command or an address."""

    @abstractmethod
    def __init__(self, training: Training, live: bool) -> None:
        """``live``: while the training goes on."""

    @abstractmethod
    def log(self, measure: Measure) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class TensorBoard(Tracker):
    """Event files in the run folder, written anew each time: a crash leaves no step twice in them."""

    package, whole = "tensorboardX", True

    def __init__(self, training: Training, live: bool) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder = training.folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.place = f"tensorboard --logdir {shlex.quote(str(folder))}"
        protos: Any = event_pb2  # its classes are made when it is imported
        self._event = protos.Event
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = 0.0
        start = protos.SessionLog(status=protos.SessionLog.START)
        self._writer.write_event(self._event(wall_time=time.time(), step=0, session_log=start))  # forget the old ones

    def log(self, measure: Measure) -> None:
        event = self._event(wall_time=measure.time, step=measure.step)
        for name, value in measure.values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


class Trackio(Tracker):
    """Hugging Face's tracker, on this machine unless TRACKIO_SPACE_ID names a Space. It cannot be asked what it has, so
    a training that is continued adds to its run, and one that is sent later is a run of its own."""

    package, whole = "trackio", False

    def __init__(self, training: Training, live: bool) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        project = os.environ.get("TRACKIO_PROJECT", "tunesmith")
        name = f"{training.name}-{training.id[:6]}" + ("" if live else time.strftime("-%H%M%S"))
        self.place = f"trackio show --project {shlex.quote(project)}"
        self._run: Any = trackio.init(
            project=project, name=name, group=training.name, config=training.config, resume="allow", embed=False
        )

    def log(self, measure: Measure) -> None:
        self._run.log(measure.values, step=measure.step)

    def close(self) -> None:
        self._run.finish()


class WeightsAndBiases(Tracker):
    """wandb.ai, or a server of one's own; WANDB_MODE=offline keeps it here. What it has already is not sent again."""

    package, whole = "wandb", True

    def __init__(self, training: Training, live: bool) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tunesmith"), id=training.id, name=training.name,
            config=training.config, resume="allow", dir=str(training.folder),
            settings={"console": "off", "login_timeout": 20},  # the screen is ours, and nobody may sit before it
        )  # fmt: skip
        if self._run.disabled:
            raise TrackerError("nobody is logged in; run `wandb login`, or set WANDB_MODE=offline")
        self.place = self._run.url or f"wandb sync {shlex.quote(str(training.folder / 'wandb'))}"

    def log(self, measure: Measure) -> None:
        if measure.final:
            self._run.summary.update(measure.values)
        elif measure.step >= self._run.step:
            self._run.log(measure.values, step=measure.step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard, "trackio": Trackio, "wandb": WeightsAndBiases,
}  # fmt: skip


def open_tracker(name: str, training: Training, *, live: bool) -> Tracker:
    """Raises `TrackerError` when it is not installed, or will not begin."""
    need(name)
    try:
        with files.storage_errors(training.folder):
            return TRACKERS[name](training, live)
    except Exception as error:  # foreign code, which may raise anything
        raise TrackerError(f"{name} did not begin: {first_line(error)}") from error


def need(name: str) -> None:
    """Raises `TrackerError` when the package of a tracker is not there."""
    from importlib.util import find_spec

    package = TRACKERS[name].package
    if find_spec(package) is None:
        raise TrackerError(f"{name} is not installed; `pip install {package}` into this environment adds it")
