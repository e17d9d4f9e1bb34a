"""Asking so that nothing is asked twice and nothing costs more than was said: journal, budget, then the teacher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesmith.settings import TeacherSettings
from tunesmith.teacher.client import Client, Refused
from tunesmith.teacher.journal import Journal
from tunesmith.teacher.request import Reply, Request, tokens_of


class NotAsked(Exception):
    """The budget is spent, or the journal alone was to answer."""


class Budget:
    """What may still be spent. What a request may take at most is put aside until its reply says what it took."""

    def __init__(self, settings: TeacherSettings, journal: Journal) -> None:
        self._settings, self._journal = settings, journal
        self._aside_requests, self._aside = 0, (0, 0)
        self._changed = threading.Condition()
        self.spent = ""
        """Which limit was reached."""

    def money(self, tokens_in: float, tokens_out: float) -> float:
        price = self._settings.price
        return (tokens_in * price.input + tokens_out * price.output) / 1e6

    def _reached(self, tokens_in: int, tokens_out: int) -> str:
        settings, journal = self._settings, self._journal
        tokens = (
            journal.tokens_in + self._aside[0] + tokens_in,
            journal.tokens_out + self._aside[1] + tokens_out,
        )
        if settings.most_requests is not None and len(journal) + self._aside_requests >= settings.most_requests:
            return "most_requests"
        if settings.most_tokens is not None and sum(tokens) > settings.most_tokens:
            return "most_tokens"
        if settings.most_money is not None and self.money(*tokens) > settings.most_money:
            return "most_money"
        return ""

    @contextmanager
    def put_aside(self, request: Request) -> Iterator[None]:
        """Room for one request, waited for while others may give some back. Raises `NotAsked` when none is left."""
        mine = tokens_of(request.text), request.max_tokens
        with self._changed:
            while reached := self._reached(*mine):
                if not self._aside_requests:
                    self.spent = reached
                    raise NotAsked
                self._changed.wait()
            self._put(1, *mine)
        try:
            yield
        finally:
            with self._changed:
                self._put(-1, -mine[0], -mine[1])
                self._changed.notify_all()

    def _put(self, requests: int, tokens_in: int, tokens_out: int) -> None:
        self._aside_requests += requests
        self._aside = (self._aside[0] + tokens_in, self._aside[1] + tokens_out)


class Asking:
    """Answers requests, for many threads: out of the journal where it can.

    connect: opens the teacher, and says what is wrong with it; called once, by the first request that it is needed for.
    """

    def __init__(self, journal: Journal, budget: Budget, connect: Callable[[], Client]) -> None:
        self.journal, self.budget, self._connect = journal, budget, connect
        self.answered = self.recalled = self.tokens_out = 0
        self.began: float | None = None
        """When the teacher was asked first."""
        self.refused: dict[str, str] = {}
        self._client: Client | None = None
        self._opening = threading.Lock()
        self._under_way: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, request: Request) -> Reply:
        """Raises `Refused`, `Stopped`, `NotAsked` and `TeacherError`."""
        with self._changed:  # two passages may be the same
            while request.key in self._under_way:
                self._changed.wait()
            if (reply := self.recall(request)) is not None:
                self.recalled += 1
                return reply
            self._under_way.add(request.key)
        try:
            return self._asked(request)
        finally:
            with self._changed:
                self._under_way.discard(request.key)
                self._changed.notify_all()

    def recall(self, request: Request) -> Reply | None:
        """The reply that is in the journal, or None. Raises `Refused` for what the teacher refused in this start."""
        if why := self.refused.get(request.key):
            raise Refused(why)
        return self.journal.find(request)

    def only_recall(self, request: Request) -> Reply:
        """`recall`; raises `NotAsked` where there is none."""
        reply = self.recall(request)
        if reply is None:
            raise NotAsked
        return reply

    def _asked(self, request: Request) -> Reply:
        with self.budget.put_aside(request):
            with self._opening:
                if self._client is None:
                    self._client = self._connect()
                    self.began = time.monotonic()
            try:
                reply = self._client.ask(request)
            except Refused as why:
                self.refused[request.key] = str(why)
                raise
            self.journal.add(request, reply)
        self.answered += 1
        self.tokens_out += reply.tokens_out
        return reply
