"""Several people at once: one thread writes all texts, a token each in turn, and new ones begin in between."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from tunesmith.engines.base import Engine
from tunesmith.serving.lane import Ask, Lane, Piece, Text

LONGEST_SECONDS = 600.0
"""An answer is broken off after that: nobody waits longer."""
STOPPING_SECONDS = 3.0
"""When the server is stopped, what is under way may go on so long."""


class Full(Exception):
    """As many wait as may."""


class Stopping(Exception):
    """The server is about to leave."""


class Broken(Exception):
    """Nothing is written any more; ``str`` says why."""


class Scheduler:
    """Writes with one engine. ``at_once``: texts under way; ``waiting``: how many more may wait, first come first
    served; ``most_tokens``: of all texts together, prompts included, as far as memory allows."""

    def __init__(
        self, engine: Engine, decode: Callable[[Sequence[int]], str], *, at_once: int, waiting: int, most_tokens: int
    ) -> None:
        self._engine, self._decode = engine, decode
        self._at_once, self._most_waiting = at_once, waiting
        self._most_tokens = most_tokens
        self._lanes: dict[bool, list[Lane]] = {}
        self._waiting = list[tuple[float, Text]]()
        self._live = list[tuple[float, Text]]()
        self._changed = threading.Condition()
        self._stop_at = float("inf")
        self._thread: threading.Thread | None = None
        self.fault = ""
        """Why nothing is written any more; empty while all is well."""

    # -- called in the event loop ----------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask, tell: Callable[[Piece], None]) -> Text:
        """``tell`` is called in the event loop with each piece. Raises `Full`, `Stopping` or `Broken`."""
        text = Text(ask, self._decode, tell)
        with self._changed:
            if self.fault:
                raise Broken(self.fault)
            if self._stop_at < float("inf"):
                raise Stopping
            if len(self._live) + len(self._waiting) >= self._at_once + self._most_waiting:
                raise Full
            self._waiting.append((time.monotonic(), text))
            self._changed.notify()
        return text

    def leave(self, text: Text) -> None:
        """Nobody waits for it any more: its place is free with the next token."""
        text.ended = True

    def stop(self, seconds: float | None = None) -> None:
        """Take nothing new; what is under way has so many seconds, `STOPPING_SECONDS` without them."""
        with self._changed:
            left = STOPPING_SECONDS if seconds is None else seconds
            self._stop_at = min(self._stop_at, time.monotonic() + left)
            self._changed.notify()

    def close(self, seconds: float | None = None) -> None:
        """`stop`, and wait for the thread, unless it hangs: Python must not end under it."""
        self.stop(seconds)
        if self._thread:
            self._thread.join(2 * STOPPING_SECONDS)

    @property
    def counts(self) -> tuple[int, int]:
        """Texts under way, and those that wait."""
        with self._changed:
            return len(self._live), len(self._waiting)

    # -- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._next_round():
                self._engine.side_by_side(Lane.round, self._busy())
                self._deliver()
        except Exception as error:  # a lane tells its own texts; of this nobody would ever hear
            self._break_down(f"the server cannot write any more ({type(error).__name__}: {error}); start serve again")

    def _break_down(self, fault: str) -> None:
        with self._changed:
            self.fault = fault
            self._live, self._waiting = [*self._live, *self._waiting], []
            for _, text in self._live:
                text.fail(fault)
            self._lanes = {}
        self._deliver()

    def _busy(self) -> list[Lane]:
        return [lane for lanes in self._lanes.values() for lane in lanes if lane.texts]

    def _next_round(self) -> bool:
        """Wait for work and give it to the lanes. False when there will be no more."""
        with self._changed:
            while not (self._waiting or self._live or self._busy()):  # what has left keeps its memory for one round
                if self._stop_at < float("inf"):
                    return False
                self._changed.wait()
            self._break_off()
            self._place()
        return True

    def _break_off(self) -> None:
        now = time.monotonic()
        for since, text in [*self._live, *self._waiting]:
            if now > min(self._stop_at, since + LONGEST_SECONDS):
                text.break_off()
        self._live += [one for one in self._waiting if one[1].ended]  # to be told, and forgotten
        self._waiting = [one for one in self._waiting if not one[1].ended]

    def _place(self) -> None:
        """In the order they came; but who waits for one model's lanes does not keep others from another's."""
        full = set[bool]()
        for one in list(self._waiting):
            text = one[1]
            if len(self._live) >= self._at_once or len(full) == len(self._lanes) > 1:
                return
            lanes = self._lanes_of(text.ask.adapter)
            left = self._most_tokens - sum(lane.claim() for both in self._lanes.values() for lane in both)
            free = [lane for lane in lanes if lane.takes(text, left + lane.claim())]
            if text.ask.adapter in full or not free:
                full.add(text.ask.adapter)
                continue
            min(free, key=lambda lane: len(lane.texts)).add(text)
            self._waiting.remove(one)
            self._live.append(one)

    def _lanes_of(self, adapter: bool) -> list[Lane]:
        if adapter not in self._lanes:
            new = [Lane(lambda: self._engine.slots(adapter=adapter)) for _ in range(self._engine.lanes)]
            self._lanes[adapter] = new
        return self._lanes[adapter]

    def _deliver(self) -> None:
        """All that is new in one visit to the event loop: it wakes up once, not once for each text."""
        news = [(text.tell, piece) for _, text in self._live if (piece := text.taken_news()) is not None]
        with self._changed:
            self._live = [one for one in self._live if not one[1].ended]
        if news:
            try:
                self._loop.call_soon_threadsafe(_tell, news)
            except RuntimeError:  # the loop has ended: nobody is left to be told
                self._stop_at = 0.0


def _tell(news: list[tuple[Callable[[Piece], None], Piece]]) -> None:
    for tell, piece in news:
        tell(piece)
