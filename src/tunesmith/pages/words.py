"""Numbers as people write them, on pages and in the terminal."""

from __future__ import annotations


def percent(share: float) -> str:
    """0.862 as 86 %."""
    return f"{100 * share:.0f} %"


def how_many(count: int, noun: str) -> str:
    """1 row, 1,200 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def probability(p: float) -> str:
    """p = 0.03; p < 0.0001."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
