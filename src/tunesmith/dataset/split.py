"""Which rows train, which choose the checkpoint, which measure: decided by each row's own hash."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from tunesmith.dataset.similar import normal
from tunesmith.sources.example import Example

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")


def group_of(example: Example) -> str:
    """What must stay on one side: the document or table, else the question (all before the first answer)
    without regard to case, spaces and punctuation, so that one question with several answers does."""
    if example.group:
        return example.group
    asked = []
    for message in example.messages:
        if message.role == "assistant":
            break
        if message.role != "system":
            asked.append(message.content)
    return normal("\n".join(asked))


def share_of(key: str, seed: int) -> float:
    """Where a group falls in [0, 1). It depends on nothing else, so adding rows moves none."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def parts_of(shares: np.ndarray, valid: float, test: float) -> np.ndarray:
    """The part, as an index into `PARTS`, of rows with these shares: float [rows] -> int8 [rows]."""
    return np.where(shares < test, 2, np.where(shares < test + valid, 1, 0)).astype(np.int8)
