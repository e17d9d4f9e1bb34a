"""Numbers as people write them."""

from __future__ import annotations

from tunesmith.machine import size as size  # the library's messages say it in the same words
from tunesmith.pages.words import how_many as how_many  # … and its pages
from tunesmith.pages.words import percent as percent
from tunesmith.pages.words import probability as probability


def duration(seconds: float) -> str:
    """0.4 s, 45 s, 4 min 10 s, 12 min, 1 h 02 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(value: float) -> str:
    """A learning rate without a padded exponent: 1.2e-4."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def money(amount: float) -> str:
    """12.50, and 0.0042 of a teacher that asks for little."""
    return f"{amount:.4f}" if 0 < amount < 0.1 else f"{amount:.2f}"
