"""The type that rows become when they cannot be used: kept with the reason, never dropped in silence."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.sources.example import Origin

SHOWN = 2_000
"""Characters that are kept of what is long."""


@dataclass(frozen=True)
class Quarantined:
    """A row or file that cannot be taught: where it stands, why, and its text as it was read."""

    origin: Origin
    reason: str
    text: str = ""
