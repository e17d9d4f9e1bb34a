"""The learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int, steps: int, peak: float, warmup: float, kind: Literal["cosine", "linear", "constant"]
) -> float:
    """Learning rate of a step counted from 1: a linear rise over the first ``warmup`` share of the
    steps, then constant, or down to zero behind the last step, in a line or a half cosine
    (Loshchilov & Hutter 2017)."""
    rise = max(1, round(warmup * steps)) if warmup else 0
    if step <= rise:
        return peak * step / rise
    left = (steps - step + 1) / (steps - rise + 1)
    if kind == "constant":
        return peak
    if kind == "linear":
        return peak * left
    return peak * 0.5 * (1 - math.cos(math.pi * left))
