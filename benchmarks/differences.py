"""How often evaluation is mistaken about two models: differences that are not there and are seen, and those that are
there and are missed. Answers are simulated; clusters are documents, to some of which a model happens to be suited.

    python benchmarks/differences.py --times 2000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from tunesmith.evaluation.statistics import compare, mean_interval

Scores = np.ndarray
Makes = Callable[[np.random.Generator, int, int, str], tuple[Scores, Scores]]


def documents(n: int, size: int) -> list[str]:
    return [f"{question // size:05d}" for question in range(n)]


def by_chance(random: np.random.Generator, n: int, size: int, kind: str) -> tuple[Scores, Scores]:
    """Both models equally good on the whole, each knowing some documents well and some hardly: the differences of one
    document's questions are alike."""
    knows = random.beta(0.5, 0.5, (2, -(-n // size))).repeat(size, axis=1)[:, :n]
    return _graded(random, knows, kind)


def alike(random: np.random.Generator, n: int, size: int, kind: str) -> tuple[Scores, Scores]:
    """Both know every document equally well and differ by chance, question by question."""
    knows = random.beta(0.5, 0.5, -(-n // size)).repeat(size)[:n]
    return _graded(random, np.stack([knows, knows]), kind)


def better(gained: float, lost: float, spread: float) -> Makes:
    """Base knows half; tuned gets right ``gained`` of all questions that base got wrong, and loses ``lost``. With
    ``spread`` a document gives up to so much more or less of what is gained."""

    def make(random: np.random.Generator, n: int, size: int, kind: str) -> tuple[Scores, Scores]:
        first = random.random(n) < 0.5
        gains = 2 * gained * (1 + spread * random.choice([-1, 1], -(-n // size)).repeat(size)[:n])
        drawn = random.random(n)
        second = np.where(first, drawn >= 2 * lost, drawn < gains)
        return first.astype(float), second.astype(float)

    return make


def apart(random: np.random.Generator, n: int, size: int, kind: str) -> tuple[Scores, Scores]:
    """45 % and 55 % right, each question anew: the models have nothing in common, which no fine-tuning does."""
    return (random.random(n) < 0.45).astype(float), (random.random(n) < 0.55).astype(float)


def _graded(random: np.random.Generator, knows: np.ndarray, kind: str) -> tuple[Scores, Scores]:
    if kind == "right or wrong":
        first, second = (random.random(knows.shape) < knows).astype(float)
    else:
        first, second = np.clip(knows + random.normal(0, 0.15, knows.shape), 0, 1)
    return first, second


# -- ways to judge ---------------------------------------------------------------------------------


def ours(first: Scores, second: Scores, clusters: Sequence[str], _: np.random.Generator) -> bool:
    return compare(first.tolist(), second.tolist(), clusters).verdict != "not distinguishable"


def percentile_bootstrap(first: Scores, second: Scores, clusters: Sequence[str], random: np.random.Generator) -> bool:
    member = np.unique(np.array(clusters), return_inverse=True)[1]
    sums = np.stack([np.bincount(member, second - first), np.bincount(member)], axis=1)
    drawn = sums[random.integers(0, len(sums), (1000, len(sums)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return bool(low > 0 or high < 0)


def rate(make: Makes, judge: Callable[..., bool], n: int, size: int, kind: str, times: int) -> float:
    random = np.random.default_rng(n * 100 + size)
    clusters = documents(n, size)
    return sum(judge(*make(random, n, size, kind), clusters, random) for _ in range(times)) / times


def covered(n: int, size: int, share: float, times: int) -> float:
    """How often the interval of one model's score holds the true one."""
    random = np.random.default_rng(n * 100 + size)
    clusters, held = documents(n, size), 0
    for _ in range(times):
        knows = random.beta(share, 1 - share, -(-n // size)).repeat(size)[:n] if size > 1 else share
        low, high = mean_interval((random.random(n) < knows).astype(float).tolist(), clusters)
        held += low <= share <= high
    return held / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    times = parser.parse_args().times
    sizes, numbers = (1, 5, 20), (20, 50, 100, 300, 1000)
    seen = {"ours": (by_chance, ours), "ours, alike in each document": (alike, ours),
            "percentile bootstrap over documents": (by_chance, percentile_bootstrap)}  # fmt: skip
    for kind in ("right or wrong", "in between"):
        print(
            f"\nDifferences seen that are not there, scores {kind}\n| questions | of a document |",
            " | ".join(seen),
            "|",
        )
        for n in numbers:
            for size in sizes:
                rates = [rate(make, judge, n, size, kind, times) for make, judge in seen.values()]
                print(f"| {n} | {size} |", *(f"{100 * r:.1f} % |" for r in rates), flush=True)
    print("\n10 points found\n| gained, lost | of a document |", *(f"n = {n} |" for n in numbers))
    makes = {"10 %, 0 %": better(0.10, 0.0, 0.0), "15 %, 5 %": better(0.15, 0.05, 0.0),
             "15 %, 5 %, uneven by document": better(0.15, 0.05, 0.8), "20 %, 10 %": better(0.20, 0.10, 0.0),
             "nothing in common": apart}  # fmt: skip
    for name, make in makes.items():
        for size in sizes:
            found = [rate(make, ours, n, size, "right or wrong", times) for n in numbers]
            print(f"| {name} | {size} |", *(f"{100 * r:.0f} % |" for r in found), flush=True)
    print("\nThe interval of one score holds the true one\n| right | of a document |", *(f"n = {n} |" for n in numbers))
    for share in (0.5, 0.8, 0.95):
        for size in sizes:
            held = [covered(n, size, share, times) for n in numbers]
            print(f"| {100 * share:.0f} % | {size} |", *(f"{100 * r:.1f} % |" for r in held), flush=True)


if __name__ == "__main__":
    main()
