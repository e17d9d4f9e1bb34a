"""Texts that are written together: one lane is one `Slots`, and what is under way in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tunesmith.engines.writing import Sampler, Slots
from tunesmith.errors import OutOfMemory
from tunesmith.serving.text import Decoding, Stops

PIECE = 256
"""Prompt tokens that are read between two tokens of the texts under way: half a second of a small model on one core."""
GROWTH = 64
"""Tokens of room that a text is given at first; more is made when it is needed."""

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Ask:
    """What is to be written. ``limit``: tokens at most; ``scores``: how many of the likeliest tokens are told with each
    token, None for nothing of it."""

    prompt: Sequence[int]
    limit: int
    ends: frozenset[int]
    sampler: Sampler
    adapter: bool = True
    stop: Sequence[str] = ()
    scores: int | None = None


@dataclass(frozen=True)
class Score:
    """A token, its log-probability, and the likeliest in its place with theirs."""

    token: int
    logprob: float
    likeliest: list[tuple[int, float]]


@dataclass
class Piece:
    """What was written since the last one. ``fault`` says why there is no more."""

    text: str = ""
    tokens: int = 0
    scores: list[Score] = field(default_factory=list)
    finish: Finish | None = None
    fault: str = ""

    def with_more(self, piece: Piece) -> Piece:
        """This one and the next as one."""
        scores = [*self.scores, *piece.scores]
        return Piece(self.text + piece.text, self.tokens + piece.tokens, scores, piece.finish, piece.fault)


class Text:
    """One text under way; ``tell`` gets its pieces, in the thread that `deliver` is called in."""

    def __init__(self, ask: Ask, decode: Callable[[Sequence[int]], str], tell: Callable[[Piece], None]) -> None:
        self.ask, self.tell = ask, tell
        self.last = 0
        self.ended = False
        """Nothing more is written: it is finished, or nobody waits for it any more."""
        self.news = Piece()
        self._written = 0
        self._decoding, self._stops = Decoding(decode), Stops(ask.stop)

    def take(self, token: int, logits: np.ndarray) -> None:
        """One more token; ``logits`` [vocabulary] are what it was chosen from."""
        if token in self.ask.ends:
            self._end("stop")
            return
        self.last = token
        self._written += 1
        self.news.tokens += 1
        if self.ask.scores is not None:
            self.news.scores.append(_score(token, logits, self.ask.scores))
        self.news.text += self._stops.add(self._decoding.add(token))
        if self._stops.met:
            self._finished("stop")
        elif self._written >= self.ask.limit:
            self._end("length")

    def _end(self, finish: Finish) -> None:
        """With what was held back, which will not become anything else now."""
        self.news.text += self._stops.add(self._decoding.rest()) + self._stops.rest()
        self._finished("stop" if self._stops.met else finish)

    def _finished(self, finish: Finish) -> None:
        self.news.finish, self.ended = finish, True

    def break_off(self) -> None:
        """As if its limit were reached."""
        if not self.ended:
            self._end("length")

    def fail(self, fault: str) -> None:
        if not self.ended:
            self.news.fault, self.ended = fault, True

    def taken_news(self) -> Piece | None:
        """What nobody was told yet."""
        news = self.news
        if not (news.text or news.tokens or news.finish or news.fault):
            return None
        self.news = Piece()
        return news


def _score(token: int, logits: np.ndarray, count: int) -> Score:
    shifted = logits.astype(np.float64) - logits.max()
    shifted -= np.log(np.exp(shifted).sum())
    likeliest = np.argsort(-shifted, kind="stable")[:count].tolist() if count else []
    return Score(token, float(shifted[token]), [(i, float(shifted[i])) for i in likeliest])


class Lane:
    """A `Slots`, and the texts in it. Only the thread that steps it touches it."""

    def __init__(self, new_slots: Callable[[], Slots]) -> None:
        self._new_slots = new_slots
        self._slots: Slots | None = None
        self._texts: dict[int, Text] = {}
        self._arriving = list[Text]()
        self._slow: tuple[Text, Iterator[np.ndarray | None]] | None = None
        self._names = 0
        self._rows = self._widest = 0
        """As many texts, and as long, as were here at once since it was empty: a cache never becomes smaller."""

    @property
    def texts(self) -> list[Text]:
        """All that are here, arriving ones too."""
        slow = [self._slow[0]] if self._slow else []
        return [*self._texts.values(), *self._arriving, *slow]

    def claim(self, *more: Text) -> int:
        """Tokens that it may come to keep, with ``more`` texts: in each row as many as the longest may become."""
        rows, widest = self._claimed(more)
        return rows * widest

    def _claimed(self, more: Sequence[Text]) -> tuple[int, int]:
        longest = [len(text.ask.prompt) + text.ask.limit for text in more]
        return max(self._rows, len(self.texts) + len(more)), max(self._widest, *longest, 0)

    def takes(self, text: Text, most: int) -> bool:
        """Whether it can begin with the next round, where ``most`` tokens may be kept; one alone always can."""
        prompts = [len(one.ask.prompt) for one in [*self._arriving, text]]
        if self._slow or (self._arriving and max(prompts) * len(prompts) > PIECE):
            return False
        return not self.texts or self.claim(text) <= most

    def add(self, text: Text) -> None:
        self._rows, self._widest = self._claimed([text])
        self._arriving.append(text)

    def round(self) -> None:
        """One token more for every text, and some of the prompts that are waiting. A fault ends the texts of this lane
        and no others."""
        try:
            self._leave()
            self._step()
            self._admit()
            self._leave()
        except OutOfMemory:
            self._fail("the machine's memory is full; ask again later, or start serve with a smaller --at-once")
        except Exception as error:  # whoever waits must be told, whatever it was
            self._fail(f"writing failed ({type(error).__name__}: {error})")

    def _leave(self) -> None:
        if self._slow and self._slow[0].ended:
            self._slow = None
        self._arriving = [text for text in self._arriving if not text.ended]
        ended = [row for row, text in self._texts.items() if text.ended]
        for row in ended:
            del self._texts[row]
        if self._slots is not None:
            self._slots.leave(ended)
        if not self.texts:  # what a long text needed is not kept for ever
            self._empty()

    def _step(self) -> None:
        if self._texts and self._slots is not None:
            rows = self._slots.rows
            self._take(rows, self._slots.step([self._texts[row].last for row in rows]))

    def _take(self, rows: Sequence[int], logits: np.ndarray) -> None:
        for row, one in zip(rows, logits, strict=True):
            text = self._texts[row]
            text.take(text.ask.sampler(one), one)

    def _admit(self) -> None:
        if not (self._slow or self._arriving):
            return
        if self._slots is None:
            self._slots = self._new_slots()
        if self._slow:
            self._read_on()
        elif len(self._arriving[0].ask.prompt) > PIECE:  # then it is the only one
            text = self._arriving.pop()
            self._slow = text, self._slots.admit_slowly(self._name(), text.ask.prompt, PIECE)
            self._read_on()
        else:
            rows = [self._name() for _ in self._arriving]
            logits = self._slots.admit(rows, [text.ask.prompt for text in self._arriving], GROWTH)
            self._texts |= dict(zip(rows, self._arriving, strict=True))
            self._arriving = []
            self._take(rows, logits)

    def _read_on(self) -> None:
        assert self._slow is not None
        assert self._slots is not None
        text, reading = self._slow
        logits = next(reading)
        if logits is not None:
            self._slow = None
            self._texts[self._slots.rows[-1]] = text
            self._take(self._slots.rows[-1:], logits)

    def _name(self) -> int:
        self._names += 1
        return self._names

    def _fail(self, fault: str) -> None:
        for text in self.texts:
            text.fail(fault)
        self._empty()

    def _empty(self) -> None:
        self._texts, self._arriving, self._slow, self._slots = {}, [], None, None
        self._rows = self._widest = 0
