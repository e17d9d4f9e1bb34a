"""Many units at once, as many as there may be requests: what follows from a unit is done before the next is begun."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from tunesmith.teacher.asking import NotAsked
from tunesmith.teacher.client import Ask, Stopped
from tunesmith.teacher.units import Item, Unit

FRAME = 0.25
"""Seconds between two looks at how far it is."""


class Crew:
    """Threads that do units until there are none, one fails, or a stop is asked for.

    So rows become complete one after the other, and few units wait: memory does not grow with the documents.
    """

    def __init__(self, units: Iterator[Unit], ask: Ask, size: int, heard: Callable[[list[Item]], None]) -> None:
        self._units, self._ask, self._heard = units, ask, heard
        self._waiting: list[tuple[Unit, int]] = []
        self._busy, self._ended = 0, False
        self._left: dict[int, int] = {}
        self._begun = self.finished = 0
        """Units of the plan whose every further unit is done too."""
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(size)]

    def run(self, stop: threading.Event) -> Iterator[None]:
        """Yields now and then. Requests that are under way are waited for after a stop. Raises what a unit raised."""
        for thread in self._threads:
            thread.start()
        early = True
        try:
            while any(thread.is_alive() for thread in self._threads):
                yield
                if stop.is_set():
                    self._end(None)
                with self._changed:
                    self._changed.wait_for(lambda: self._ended and not self._busy, FRAME)
            early = False
            yield
        finally:
            if early:
                stop.set()  # whoever waits for a turn need not
            self._end(None)
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            unit, root = taken
            further: list[Unit] = []
            try:
                done = unit.work(self._ask)
                further = done.further
                self._heard(done.items)
            except (NotAsked, Stopped):
                self._end(None)
            except BaseException as error:
                self._end(error)
            with self._changed:
                self._busy -= 1
                self._waiting += [(following, root) for following in reversed(further)]
                self._left[root] += len(further) - 1
                if not self._left[root]:
                    del self._left[root]
                    self.finished += 1
                self._changed.notify_all()

    def _take(self) -> tuple[Unit, int] | None:
        with self._changed:
            while not self._ended:
                if not self._waiting and (unit := self._next()) is not None:
                    self._begun += 1
                    self._left[self._begun] = 1
                    self._waiting.append((unit, self._begun))
                if self._waiting:
                    self._busy += 1
                    return self._waiting.pop()
                if not self._busy:
                    self._ended = True
                    self._changed.notify_all()
                    return None
                self._changed.wait()
            return None

    def _next(self) -> Unit | None:
        try:
            return next(self._units, None)
        except BaseException as error:  # a source that is not there
            self._error, self._ended = error, True
            self._changed.notify_all()
            return None

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended = True
            self._error = self._error or error
            self._changed.notify_all()


def in_order(units: Iterator[Unit], ask: Ask) -> Iterator[tuple[Unit, list[Item] | None]]:
    """Every unit with what came of it, by the replies that ``ask`` has, in the plan's order; None where one lacks."""
    for unit in units:
        waiting = [unit]
        while waiting:
            current = waiting.pop()
            try:
                done = current.work(ask)
            except NotAsked:
                yield current, None
                continue
            yield current, done.items
            waiting += reversed(done.further)
