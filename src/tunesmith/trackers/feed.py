"""Feeding trackers: while a run goes on, where nothing they do may stop it, or afterwards, where a fault is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from tunesmith.errors import TrackerError, first_line
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe
from tunesmith.trackers.measures import Reader, Training, this_training
from tunesmith.trackers.services import TRACKERS, Tracker, need, open_tracker


class Feed:
    """The trackers of a run while it goes on: ``with Feed(folder, recipe) as feed: feed.follow(progress)``.

    A tracker that fails is left out from then on, and a note says so, once.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe) -> None:
        self._folder, self._recipe = folder, recipe
        self._waiting: list[str] = list(dict.fromkeys(recipe.train.trackers))
        self._open: dict[str, Tracker] = {}
        self._reader, self._since = Reader(), round(time.time(), 3)  # as events are stamped
        self._looked = False

    def __enter__(self) -> Feed:
        return self

    def follow(self, progress: Progress) -> Iterator[Progress]:
        """Yield an event that was recorded, and after it the notes of trackers that failed, recorded too."""
        yield progress
        notes = self._missing() + self._take(progress)
        for note in notes:
            yield self._folder.record(Progress("note", stage=progress.stage, message=note))

    def _missing(self) -> list[str]:
        """At the first event: hours later is too late to learn that something is not installed."""
        if self._looked:
            return []
        self._looked = True
        return [note for name in list(self._waiting) if (note := self._guarded(name, partial(need, name)))]

    def _take(self, progress: Progress) -> list[str]:
        measure = self._reader.read(progress)
        if measure is None:
            return []
        notes = [self._guarded(name, partial(tracker.log, measure)) for name, tracker in list(self._open.items())]
        for name in list(self._waiting):  # what they are sent when they are opened ends with this event
            notes.append(self._guarded(name, partial(self._begin, name)))
        return [note for note in notes if note]

    def _begin(self, name: str) -> None:
        begun, events = this_training(self._folder)
        self._open[name] = open_tracker(name, Training.of(self._folder, self._recipe, begun), live=True)
        self._waiting.remove(name)
        since = 0.0 if TRACKERS[name].whole else self._since
        _send(events, self._open[name], since)

    def _guarded(self, name: str, do: Callable[[], None]) -> str:
        """What to tell when it went wrong; the tracker is left out from then on."""
        try:
            do()
        except Exception as error:  # foreign code and networks: no training may end for them
            self._open.pop(name, None)
            self._waiting = [other for other in self._waiting if other != name]
            said = str(error) if isinstance(error, TrackerError) else f"{name} failed: {first_line(error)}"
            return f"{said}; the run goes on without it, `tunesmith track {self._folder} --to {name}` sends all of it"
        return ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for name, tracker in list(self._open.items()):
            if note := self._guarded(name, tracker.close):
                self._folder.record(Progress("note", message=note))


@dataclass(frozen=True)
class Sent:
    """How many points a tracker was sent, and where they are to be seen."""

    tracker: str
    points: int
    place: str


def track(folder: RunFolder, name: str) -> Sent:
    """Send a tracker everything that a run has measured so far. Raises `TrackerError` or `RunError`."""
    recipe = folder.recipe()
    begun, events = this_training(folder)
    reader = Reader()
    if not any(reader.read(event) for event in events):
        raise TrackerError(f"{folder} has measured nothing yet; `tunesmith run {folder}` trains it")
    tracker = open_tracker(name, Training.of(folder, recipe, begun), live=False)
    try:
        points = _send(events, tracker)
        tracker.close()
    except Exception as error:  # foreign code, which may raise anything
        raise TrackerError(f"{name} failed: {first_line(error)}; send it again when that is mended") from error
    return Sent(name, points, tracker.place)


def _send(events: list[Progress], tracker: Tracker, since: float = 0.0) -> int:
    """The measures of these events, from a time on. Returns how many there were."""
    reader, points = Reader(), 0
    for event in events:
        measure = reader.read(event)
        if measure and measure.time >= since:
            tracker.log(measure)
            points += 1
    return points
