"""Writing several texts at once: each in a slot of its own, and whoever has ended leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tunesmith.engines.base import Generation

SHARED = 16
"""Fewer tokens than that are not worth being read once for several prompts."""


class Slots(Protocol):
    """Texts of one loaded model, all of them one token longer with each `step`. New ones may begin at any time."""

    rows: list[int]
    """The texts under way, in the order that `step` takes tokens and gives logits; `leave` changes it."""

    def admit(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        """Read these prompts; the texts are called ``rows`` from now on. There is room for so many tokens behind each
        at once; more is made when it is needed. Returns logits, float32 [prompts, vocabulary]."""
        ...

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Put a token behind each text. Returns logits, float32 [rows, vocabulary]."""
        ...

    def leave(self, rows: Sequence[int]) -> None:
        """Forget these texts; their slots are free."""
        ...


class Picker:
    """The next token of each row: the likeliest, or one drawn by the inverse of the cumulative distribution, from the
    row's own generator, so that what other rows do changes nothing."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature, self._seed = temperature, seed
        self._draws: dict[int, np.random.Generator] = {}

    def __call__(self, logits: np.ndarray, rows: Sequence[int]) -> list[int]:
        """float32 [rows, vocabulary] -> ids."""
        if self._temperature <= 0:
            return logits.argmax(-1).tolist()
        return [self._drawn(one, row) for one, row in zip(logits, rows, strict=True)]

    def _drawn(self, logits: np.ndarray, row: int) -> int:
        draws = self._draws.setdefault(row, np.random.default_rng([self._seed, row]))
        scaled = (logits - logits.max()) / self._temperature
        sums = np.exp(scaled, dtype=np.float64).cumsum()
        return min(int(np.searchsorted(sums, draws.random() * sums[-1], side="right")), len(logits) - 1)


def write(
    slots: Slots,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    pick: Picker,
    limit: int,
    stop: frozenset[int],
    on_token: Callable[[int, int], None] | None = None,
) -> dict[int, Generation]:
    """At most ``limit`` tokens behind each prompt, up to a stop id, by row."""
    results = {row: Generation() for row in rows}
    if not rows or limit < 1:
        return results
    logits = slots.admit(rows, prompts, limit)
    for left in reversed(range(limit)):
        ended = []
        for row, token in zip(slots.rows, pick(logits, slots.rows), strict=True):
            if token in stop:
                results[row].stopped = True
                ended.append(row)
                continue
            results[row].ids.append(token)
            if on_token:
                on_token(row, token)
        slots.leave(ended)
        if not slots.rows or not left:
            break
        logits = slots.step([results[row].ids[-1] for row in slots.rows])
    return results


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, each with one left behind; 0 where that is not worth reading once."""
    if len(prompts) < 2:
        return 0
    texts = [tuple(prompt) for prompt in prompts]
    first, last = min(texts), max(texts)  # in the order of a dictionary: what these share, all share
    most = min(len(prompt) for prompt in prompts) - 1
    shared = next((i for i in range(most) if first[i] != last[i]), most)
    return shared if shared >= SHARED else 0
