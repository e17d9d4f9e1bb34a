"""How sure a score is: an interval for one model, and a test for two models on the same questions.

Questions about one document are answered right or wrong together, so documents are what chance draws, not questions:
everything here takes the cluster of each question. benchmarks/differences.py measures how often it is mistaken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, erfc, sqrt
from typing import Any

import numpy as np

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point."""
Z_80 = 0.8416212335729143
"""Its 80 % point."""
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571)
"""Student's 97.5 % points for 1 to 5 degrees of freedom."""
FLIPS = 10_000
"""Ways to divide the clusters that are tried; all of them where there are fewer."""
FEWEST = 6
"""With fewer clusters no difference is told from chance: five that agree do so by chance once in 16 times."""
ROUNDING = 1e-12
"""Sums of fractions differ by so much with the order of their terms."""


@dataclass(frozen=True)
class Difference:
    """By how much the second model is better than the first on the same questions; see `compare`."""

    mean: float
    interval: tuple[float, float]
    """The 95 % interval of the mean."""
    p_value: float
    """How often chance would give a difference at least this large, were both equally good."""
    n: int
    """Questions that both models were graded on."""
    clusters: int
    needed: int | None
    """Questions with which a difference of this size would be found in 80 of 100 evaluations; None where it is 0."""

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "not distinguishable": on which side of 0 the interval lies."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": self.mean, "interval": list(self.interval), "p_value": self.p_value, "n": self.n,
            "clusters": self.clusters, "needed": self.needed, "verdict": self.verdict,
        }  # fmt: skip


# -- one model -------------------------------------------------------------------------------------


def interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion of ``right`` in ``n``, as two numbers from 0 to 1.

    Wilson's score interval, without continuity correction (E. B. Wilson, Journal of the American
    Statistical Association 22, 1927, pages 209-212). It stays within 0 and 1 and holds for small ``n``
    and for none or all right, where the usual p ± 1.96 s does not. Without questions nothing is known:
    (0, 1). Raises ValueError unless 0 <= right <= n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} is not a proportion")
    return (0.0, 1.0) if n == 0 else _wilson(right / n, n)


def _wilson(share: float, n: float) -> tuple[float, float]:
    spread = Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # At the ends the exact bound is 0 or 1; rounding would miss it by 1e-17.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def mean_interval(scores: Sequence[float | None], clusters: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of the mean of ``scores``, each from 0 to 1 and None where it could not be graded.

    `interval` where answers are right or wrong and no two questions share a cluster. Else Wilson's interval for as many
    questions as would know as much, were they independent: p (1 - p) divided by the variance of the mean over clusters,
    less by (1.96 / Student's t)² for having measured that variance on few of them (E. L. Korn and B. I. Graubard,
    Survey Methodology 24, 1998, pages 193-201). A bootstrap of ten clusters is too narrow, and of equal scores it
    has no width at all: then each cluster counts as one question, as does a cluster that is the only one.
    """
    values, names = _graded(scores, clusters)
    totals, sizes = _by_cluster(values, names)
    if len(totals) == len(values) and set(values.tolist()) <= {0.0, 1.0}:
        return interval(int(values.sum()), len(values))
    mean = float(values.mean())
    return _wilson(mean, _independent(values, mean, totals, sizes))


def _independent(values: np.ndarray, mean: float, totals: np.ndarray, sizes: np.ndarray) -> float:
    """How many independent right or wrong answers know as much about the mean as these scores."""
    n, count = len(values), len(totals)
    spread = float(((values - mean) ** 2).sum())
    if count == 1 or spread <= ROUNDING * n:
        return float(count)
    clustered = float(((totals - sizes * mean) ** 2).sum())
    variance = max(spread * n / (n - 1), clustered * count / (count - 1)) / n**2
    return mean * (1 - mean) / variance * (Z_95 / _student(count - 1)) ** 2


def _student(freedom: int) -> float:
    """Student's 97.5 % point, to 0.001 (M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 26.7.5)."""
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    z = Z_95
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


# -- two models ------------------------------------------------------------------------------------


def compare(
    first: Sequence[float | None], second: Sequence[float | None], clusters: Sequence[str], *, bounded: bool = True
) -> Difference:
    """How much better ``second`` answered than ``first``: scores from 0 to 1 of the same questions in the same order;
    not ``bounded``: of any size, as losses are, and the largest difference that was seen is the unit instead.

    Questions that either was not graded on are left out of both. Two intervals are computed, and the lower of their
    lower ends and the higher of their higher ends are taken; the verdict is where 0 lies, the p-value the larger one.

    The first is by changing signs. Were both models equally good, each cluster's sum of differences could as well have
    the other sign; p is the share of all choices of signs that give a difference as large as the one seen. For right or
    wrong answers and clusters of one question this is McNemar's exact test; it errs in 5 of 100 cases at most however
    few and alike the clusters are (I. A. Canay, J. P. Romano, A. M. Shaikh, Econometrica 85, 2017, pages 1013-1030).
    The interval holds every difference that the test does not refuse: its ends are means over subsets of the
    clusters (J. A. Hartigan, Journal of the American Statistical Association 64, 1969, pages 1303-1317).

    Where hardly any answers differ, or all by as much, such subsets are all alike and that interval has no width. The
    second is wide then: mean ± 1.96 s after adding one question that got better and one that got worse (D. G. Bonett
    and R. M. Price, Journal of Educational and Behavioral Statistics 37, 2012, pages 479-488), for as many questions
    as would know as much, were they independent.

    A percentile bootstrap over clusters, which is usual, sees differences that are not there in 10 to 20 of 100 cases
    where clusters are few. Here 10 points at n = 300 are found in 98 of 100 when the models disagree on 20 % of the
    questions, which is assumed of fine-tuning, and in 88 when on 30 %. Models that have nothing in common disagree on
    half: then 64 are found, and 69 would be by a test that knew the variance. docs/evaluation.md has all rates.

    Raises ValueError when the lists differ in length.
    """
    paired = [None if a is None or b is None else b - a for a, b in zip(first, second, strict=True)]
    differences, names = _graded(paired, clusters)
    if not len(differences):
        return Difference(0.0, (-1.0, 1.0), 1.0, 0, 0, None)
    unit = 1.0 if bounded else float(np.abs(differences).max()) or 1.0
    differences = differences / unit
    totals, sizes = _by_cluster(differences, names)
    flipped_low, flipped_high, flipped_chance = _sign_changes(totals, sizes)
    centre, deviation, step = _smoothed(differences, totals, sizes)
    low = min(flipped_low, centre - Z_95 * deviation)
    high = max(flipped_high, centre + Z_95 * deviation)
    mean = round(float(differences.mean()), 12) + 0.0  # no -0.0
    return Difference(
        mean * unit,
        (max(low, -1.0) * unit, min(high, 1.0) * unit),
        max(flipped_chance, erfc(abs(centre) / deviation / sqrt(2))),
        len(differences),
        len(totals),
        _needed(mean, deviation, step, len(differences), len(totals)),
    )


def _sign_changes(totals: np.ndarray, sizes: np.ndarray) -> tuple[float, float, float]:
    """The interval's ends and the p-value by changing the signs of clusters.

    With the true difference x, a choice of signs gives a larger one than was seen exactly where x lies between the mean
    of the clusters whose sign is changed and that of the others. So one pass gives the test for every x.
    """
    values = np.stack([totals, sizes], axis=1)
    inside = _subset_sums(values)
    outside = values.sum(axis=0) - inside
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.stack([inside[:, 0] / inside[:, 1], outside[:, 0] / outside[:, 1]]).round(12)
    none = ~np.isfinite(means).all(axis=0)  # all clusters or no cluster changed: as large for every x
    low = np.where(none, -np.inf, means.min(axis=0))
    high = np.where(none, np.inf, means.max(axis=0))
    place = -(-len(low) // 20) - 1  # the least extreme x for which 5 % of the choices are as large
    chance = float(((low <= 0) & (high >= 0)).mean())
    return float(np.partition(low, place)[place]), -float(np.partition(-high, place)[place]), chance


def _subset_sums(values: np.ndarray) -> np.ndarray:
    """The sums of subsets of the rows of ``values``, (choices, columns): of every subset once, up to taking its
    complement, or of random ones with the empty one among them (B. Phipson and G. K. Smyth, Statistical Applications
    in Genetics and Molecular Biology 9, 2010, article 39)."""
    count = len(values)
    every = np.arange(2 ** (count - 1)) if 2 ** (count - 1) <= FLIPS else None
    random = np.random.default_rng(0)
    sums = np.zeros((FLIPS if every is None else len(every), values.shape[1]))
    for start in range(0, count, 8):
        eight = values[start : start + 8]
        subsets = (np.arange(256)[:, None] >> np.arange(len(eight)) & 1) @ eight  # looked up, not added up each time
        sums += subsets[random.integers(0, 256, len(sums), np.uint8) if every is None else every >> start & 255]
    if every is None:
        sums[0] = 0
    return sums


def _smoothed(differences: np.ndarray, totals: np.ndarray, sizes: np.ndarray) -> tuple[float, float, float]:
    """The mean and its standard deviation, never 0, after adding a question that differs as much as those that do
    (1 where none does), and one that does so the other way; and by how much one such question moves the mean."""
    n, count, mean = len(differences), len(totals), differences.mean()
    spread = float(((differences - mean) ** 2).sum())
    clustered = float(((totals - sizes * mean) ** 2).sum())
    if count == 1 or spread <= ROUNDING * n:
        known = count
    else:
        known = n / max(1.0, clustered * count / (count - 1) / (spread * n / (n - 1)))
    square = float((differences**2).mean())
    differing = (np.abs(differences) > ROUNDING).mean()
    usual = square / differing if differing else 1.0
    centre = float(mean) * known / (known + 2)
    deviation = sqrt(((known * square + 2 * usual) / (known + 2) - centre**2) / (known + 2))
    return centre, deviation, sqrt(usual) / known


def _needed(mean: float, deviation: float, step: float, n: int, count: int) -> int | None:
    """The variance of a mean falls with the questions, their number in a cluster being the same. An exact test of whole
    answers needs two steps more (J. L. Fleiss, A. Tytun, H. K. Ury, Biometrics 36, 1980, pages 343-346)."""
    if mean == 0:
        return None
    share = ((Z_95 + Z_80) * deviation / mean) ** 2 + 2 * step / abs(mean)
    return ceil(n * max(share, FEWEST / count))


# -- clusters --------------------------------------------------------------------------------------


def _graded(scores: Sequence[float | None], clusters: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The scores that there are, with their clusters."""
    both = [(score, cluster) for score, cluster in zip(scores, clusters, strict=True) if score is not None]
    return np.array([score for score, _ in both], float), [cluster for _, cluster in both]


def _by_cluster(values: np.ndarray, clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of values in each cluster, in the order of their names: whatever the questions' order."""
    place = {name: number for number, name in enumerate(sorted(set(clusters)))}
    member = np.array([place[name] for name in clusters], int)
    return np.bincount(member, values, len(place)), np.bincount(member, minlength=len(place)).astype(float)
