"""Numbers as people write them, on pages and in the terminal."""

from __future__ import annotations


def percent(share: float) -> str:
    """0.862 as 86 %; a decimal where 0 % or 100 % would not be true."""
    rounded = f"{100 * share:.0f}"
    if rounded in ("0", "100") and share not in (0, 1):
        return f"{min(max(100 * share, 0.1), 99.9):.1f} %"
    return f"{rounded} %"


def how_many(count: int, noun: str, nouns: str = "") -> str:
    """1 row, 1,200 rows; ``nouns`` where an s behind the noun does not make it many."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def probability(p: float) -> str:
    """p = 0.03; p < 0.0001."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
