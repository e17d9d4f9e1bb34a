"""Which rows each step takes. A function of (seed, epoch) alone, so that a run continued is the run."""

from __future__ import annotations

import math

import numpy as np

WINDOW = 64
"""Batches that are sorted by length together: enough to pad little, few enough to stay random."""


def epoch_batches(lengths: np.ndarray, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the rows of every batch of one epoch; each row once, the last partial batch included.

    Rows are shuffled, sorted by length inside a window of `WINDOW` batches, and the batches are
    shuffled again.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), WINDOW * batch):
        window = sorted(order[start : start + WINDOW * batch], key=lambda i: lengths[i])
        batches += [window[i : i + batch] for i in range(0, len(window), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


class Order:
    """Rows by optimizer step, over all epochs."""

    def __init__(self, lengths: np.ndarray, batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed = lengths, batch, seed
        self.steps_per_epoch = math.ceil(len(lengths) / batch)
        self._epoch, self._batches = -1, list[list[int]]()

    def rows(self, step: int) -> list[int]:
        """Indices of the rows of a step counted from 1."""
        epoch, at = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, epoch_batches(self._lengths, self._batch, self._seed, epoch)
        return self._batches[at]
