"""Which rows train, which choose the checkpoint, which measure: decided by each row's own hash."""

from __future__ import annotations

import hashlib
from typing import Literal

from tunesmith.sources.example import Example

Part = Literal["train", "valid", "test"]


def part_of(example: Example, valid: float, test: float, seed: int) -> Part:
    """The side a row falls on. It depends on the row's own group or prompt alone, so adding rows
    moves none, and one question with several answers is never on two sides."""
    digest = hashlib.sha256(f"{seed}:{example.split_key}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < test:
        return "test"
    return "valid" if share < test + valid else "train"
