"""How sure a score is: an interval for one model, and a test for two models on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Paired:
    """Two models on the same questions; see `compare`."""

    only_first: int
    """Questions that only the first model got right."""
    only_second: int
    """Questions that only the second model got right."""
    p_value: float
    """How often a difference at least this large would come about by chance, were both equally good."""


def interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion of ``right`` in ``n``, as two numbers from 0 to 1.

    Wilson's score interval, without continuity correction (E. B. Wilson, Journal of the American
    Statistical Association 22, 1927, pages 209-212). It stays within 0 and 1 and holds for small ``n``
    and for none or all right, where the usual p ± 1.96 s does not. Without questions nothing is known:
    (0, 1). Raises ValueError unless 0 <= right <= n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} is not a proportion")
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # At the ends the exact bound is 0 or 1; rounding would miss it by 1e-17.
    return (0.0 if right == 0 else centre - half), (1.0 if right == n else centre + half)


def compare(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Whether two models that answered the same questions, in the same order, differ.

    McNemar's test in its exact form, which is the two-sided sign test: only questions that one model
    got right and the other wrong count, and chance would share them like a fair coin (Q. McNemar,
    Psychometrika 12, 1947, pages 153-157). Raises ValueError when the lists differ in length.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(1 for a, b in pairs if a and not b)
    only_second = sum(1 for a, b in pairs if b and not a)
    n, fewer = only_first + only_second, min(only_first, only_second)
    # Whole numbers to the end: 0.5**n is 0 in floating point for n > 1074.
    tail, ways = 0, 1
    for k in range(fewer + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return Paired(only_first, only_second, min(1.0, 2 * tail / 2**n))
