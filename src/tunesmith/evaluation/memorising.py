"""Memorising: does the model recite rows that it was trained on, and does it know them far better than unseen ones?

Runs of words are compared by hash: numpy takes a few seconds for a hundred megabytes of training text, and what is
kept depends on the answers, not on how many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tunesmith.evaluation.question import Question
from tunesmith.sources.example import Example

SEED = 16
"""Words (Chinese: characters) of the runs that are looked for; longer ones are made of these. A power of two."""
LEAST = 60
"""What a run must weigh to count as copied, a word 3 and a Chinese character 2: 20 words, or 30 characters. With 16
words 12 % of 50 blog articles "copied" from 150 others (headers, links); with 20 none did, and none of 300 answers each
of Alpaca in English, in Chinese, and of a television character. Of rows recited as they are it finds 77, 82 and 28 %
there (the others are shorter), and 92 % of the articles."""
PHRASE = 3
"""A run that stands in more different training answers than these is a phrase of the data (a greeting, a licence, the
beginning of a query): who learned to use it recites no row."""

SEEN = 1 / 3
"""Training rows that cost less than this share of what they would cost unseen …"""
NATS = 0.5
"""… and so much less for a token, in nats (each 1.6 times as likely): the model knows them by heart. A share alone
would call it memorising when SQL costs 0.03 instead of 0.09, a difference alone when prose costs 2.0 instead of 2.6."""
COPIED = 0.1
"""Share of answers that copy, from which on it is said, though only where training rows also cost …"""
HINT = 0.2
"""… so many nats less: where unseen rows cost the same, texts are alike, and the copy need not be one."""

BLOCK = 1 << 20
"""Characters of training text that are compared at once (about 60 MB)."""


def memorised(
    answers: Sequence[tuple[Question, str]],
    train_rows: Iterable[Example],
    train_loss: float,
    loss: float,
    *,
    base_gap: float = 0.0,
    best_step: int | None = None,
) -> dict[str, Any]:
    """What stands under "memorised" in results.json, of one model.

    answers: what it wrote to questions of the test part (not the choices that it made). Training questions need not be
    asked: an answer to them that is word for word right is what training is for, and how well they are known the loss
    says already. train_rows: all of them, read once. train_loss, loss: of the same model, the mean of a token, on a
    sample of training rows (100 are plenty) and on rows it never saw. base_gap: ``loss - train_loss`` of the base on
    these very rows: how much harder the unseen ones are for a model that saw neither. best_step: where the validation
    loss was lowest, when that is another checkpoint than the one measured.

    Returns copied: the share of answers with a run of `LEAST` that stands word for word in a training answer, but
    neither in the question nor in the reference, nor in a row of the same document or passage, which the answer is
    rightly like; n: of so many answers; longest: the longest such run, in words (Chinese: characters); the two losses;
    alarm: one sentence, or nothing.
    """
    runs = _copied_runs(answers, train_rows)
    copied = sum(run > 0 for run in runs) / len(runs) if runs else 0.0
    found = {
        "copied": copied, "n": len(runs), "longest": max(runs, default=0), "train_loss": train_loss, "loss": loss,
    }  # fmt: skip
    return found | {"alarm": _alarm(found, base_gap, best_step)}


def _alarm(found: dict[str, Any], base_gap: float, best_step: int | None) -> str:
    """Comparisons with a loss that is not a number are false: no alarm."""
    train_loss, loss = found["train_loss"], found["loss"]
    gained = loss - max(0.0, base_gap) - train_loss
    costs = f"training rows cost {train_loss:.2g}, rows it never saw {loss:.2f}"
    if gained > NATS and train_loss < SEEN * (train_loss + gained):
        said = costs
    elif gained > HINT and found["copied"] >= COPIED:
        share = f"{found['copied']:.0%} of its answers repeat training rows word for word"
        said = f"{share}, as many as {found['longest']} words or Chinese characters of one; {costs}"
    else:
        return ""
    best = "" if best_step is None else f", the best checkpoint was at step {best_step}"
    return f"It memorised: {said}; fewer epochs or a smaller rank would help{best}"


# -- what is copied ----------------------------------------------------------------------------------


def _copied_runs(answers: Sequence[tuple[Question, str]], train_rows: Iterable[Example]) -> list[int]:
    """The longest run of each answer that counts as copied, in words; 0: none."""
    words = Words.of([answer for _, answer in answers])
    seeds, which = np.unique(words.seeds, return_inverse=True)
    if not len(seeds):
        return [0] * len(answers)
    places = _Places(seeds)
    for block in _blocks(train_rows):
        places.add(block)
    bounds = np.searchsorted(words.texts, np.arange(len(answers) + 1))
    runs = []
    for i, (question, _) in enumerate(answers):
        begin, end = int(bounds[i]), int(bounds[i + 1])
        if end - begin < SEED:
            runs.append(0)
            continue
        here = slice(begin, end - SEED + 1)
        own = Words.of([question.reference, *(str(m["content"]) for m in question.messages)])
        free = ~np.isin(words.seeds[here], own.seeds[own.whole])
        runs.append(_longest(places, which[here], free, words.weights[begin:end], question))
    return runs


def _longest(places: _Places, which: np.ndarray, free: np.ndarray, weights: np.ndarray, question: Question) -> int:
    """The longest run of one answer. which: the seed that begins at each word [n]; free: whether it may count [n];
    weights: of the words [n + SEED - 1]."""
    free = free & (places.counts[which] <= PHRASE)
    rows = np.where(free[:, None], places.rows[which], -1)
    reach = np.concatenate([[0], np.cumsum(weights)])
    longest = 0
    for row in np.unique(rows[rows >= 0]).tolist():
        if places.about[row].is_of(question):
            continue
        there = np.concatenate([[False], (rows == row).any(axis=1), [False]])
        begins, ends = np.flatnonzero(there[1:] & ~there[:-1]), np.flatnonzero(there[:-1] & ~there[1:]) + SEED - 1
        heavy = reach[ends] - reach[begins] >= LEAST
        longest = max(longest, int((ends - begins)[heavy].max(initial=0)))
    return longest


class _About(NamedTuple):
    """Where a training row comes from."""

    origin: str
    group: str

    def is_of(self, question: Question) -> bool:
        """Whether a question is about the same document, or about the same passage in other words."""
        return bool(self.group and self.group == question.cluster) or bool(
            self.origin and self.origin == question.origin
        )


class _Block(NamedTuple):
    texts: list[str]
    about: list[_About]


def _blocks(rows: Iterable[Example]) -> Iterator[_Block]:
    """The answers of training rows, each different one once: some are the answer to many questions."""
    seen, block, size = set[int](), _Block([], []), 0
    for row in rows:
        text = "\n".join(m.content for m in row.messages if m.role in ("assistant", "text"))
        if (key := hash(text)) in seen:
            continue
        seen.add(key)
        block.texts.append(text)
        block.about.append(_About(str(row.origin), row.group))
        size += len(text)
        if size > BLOCK:
            yield block
            block, size = _Block([], []), 0
    if block.texts:
        yield block


class _Places:
    """In which training answers each seed stands: how many, and the first few of them."""

    def __init__(self, seeds: np.ndarray) -> None:
        self._seeds = seeds
        self.counts = np.zeros(len(seeds), np.int64)
        self.rows = np.full((len(seeds), PHRASE), -1, np.int64)
        self.about: dict[int, _About] = {}
        """Of the rows that are kept."""
        self._read = 0
        # Nearly all seeds of the training text are in no answer: a table of their first bits says so at once.
        self._maybe = np.zeros(1 << _BITS, bool)
        self._maybe[seeds >> _REST] = True

    def add(self, block: _Block) -> None:
        words = Words.of(block.texts)
        at = np.flatnonzero(self._maybe[words.seeds >> _REST] & words.whole)
        found = np.minimum(np.searchsorted(self._seeds, words.seeds[at]), len(self._seeds) - 1)
        same = self._seeds[found] == words.seeds[at]
        pairs = np.unique(found[same] * len(block.texts) + words.texts[at[same]])
        seeds, texts = np.divmod(pairs, len(block.texts))
        slots = self.counts[seeds] + np.arange(len(seeds)) - np.searchsorted(seeds, seeds)
        kept = slots < PHRASE
        self.rows[seeds[kept], slots[kept]] = self._read + texts[kept]
        self.about |= {self._read + i: block.about[i] for i in np.unique(texts[kept]).tolist()}
        np.add.at(self.counts, seeds, 1)
        self._read += len(block.texts)


# -- words as numbers --------------------------------------------------------------------------------

_BITS = 22
_REST = np.uint64(64 - _BITS)
_ODD = np.random.default_rng(0).integers(0, 1 << 63, 68, np.uint64) * np.uint64(2) + np.uint64(1)
_POWERS, _STEPS = _ODD[:64], _ODD[64:]
"""For the characters of a word by their place (a longer word begins again), and for the words of a run."""


@dataclass(frozen=True)
class Words:
    """Texts as words: runs of letters and digits without regard to case, Chinese and Japanese characters alone.

    texts: which text each is from [n]; weights: see `LEAST` [n]; seeds: a hash of the `SEED` words that begin with
    each, uint64 [n - SEED + 1], or none; whole: where these are of one text [n - SEED + 1].
    """

    texts: np.ndarray
    weights: np.ndarray
    seeds: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        lowered = [text.lower() for text in texts]
        codes = np.frombuffer("\n".join(lowered).encode("utf-32-le", "surrogatepass"), "<u4")
        kinds = _kinds()[np.minimum(codes, _ASTRAL)]
        apart = kinds != _LETTER
        begins = (kinds != _GAP) & (apart | np.concatenate([[True], apart[:-1]])[: len(apart)])
        starts = np.flatnonzero(begins)
        if not len(starts):
            return cls(*(np.zeros(0, t) for t in (np.int64, np.int64, np.uint64, bool)))
        within = np.arange(len(codes)) - starts[np.maximum(np.cumsum(begins) - 1, 0)]
        values = np.where(kinds == _GAP, 0, (codes.astype(np.uint64) + np.uint64(1)) * _POWERS[within % len(_POWERS)])
        numbers = np.add.reduceat(values, starts)
        ends = np.cumsum([len(text) + 1 for text in lowered])
        of_text = np.searchsorted(ends, starts, side="right")
        weights = np.where(kinds[starts] == _ALONE, 2, 3)
        return cls(of_text, weights, _seeds(numbers), of_text[: -SEED + 1] == of_text[SEED - 1 :])


def _seeds(numbers: np.ndarray) -> np.ndarray:
    """A hash of the `SEED` numbers from each place on, by doubling: of 2, 4, 8, 16."""
    size, steps = 1, iter(_STEPS)
    while size < SEED:
        numbers = numbers[:-size] * next(steps) + numbers[size:]
        size *= 2
    return (numbers ^ (numbers >> np.uint64(32))) * _ODD[0]


_GAP, _LETTER, _ALONE = range(3)
_ASTRAL = 0x10000
"""Characters from here on (rare Chinese ones, emoji) stand alone."""


@cache
def _kinds() -> np.ndarray:
    """What each character is: a gap between words, part of a word, or one by itself: uint8 [_ASTRAL + 1]."""
    kinds = np.array([c.isalnum() for c in map(chr, range(_ASTRAL))] + [True], np.uint8)
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (_ASTRAL, _ASTRAL)):
        kinds[first : last + 1] *= np.uint8(_ALONE)
    return kinds
