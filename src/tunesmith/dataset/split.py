"""Which rows train, which choose the checkpoint, which measure: decided by each row's own hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from tunesmith.dataset.similar import normal_all
from tunesmith.sources.example import Example

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")


def groups_of(examples: Sequence[Example]) -> list[str]:
    """What must stay on one side, for each row: the document or table, else the question (all before the first
    answer) without regard to case, spaces and punctuation, so that one question with several answers does."""
    asked = normal_all(["" if example.group else _asked(example) for example in examples])
    return [example.group or question for example, question in zip(examples, asked, strict=True)]


def _asked(example: Example) -> str:
    asked = []
    for message in example.messages:
        if message.role == "assistant":
            break
        if message.role != "system":
            asked.append(message.content)
    return "\n".join(asked)


def shares_of(groups: Iterable[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each group falls in [0, 1), float64, and another number to know it by, uint64. They depend on nothing else,
    so adding rows moves none."""
    digests = b"".join([hashlib.sha256(f"{seed}:{group}".encode()).digest()[:16] for group in groups])
    numbers = np.frombuffer(digests, ">u8").reshape(-1, 2)
    return numbers[:, 0] / 2**64, numbers[:, 1]


def parts_of(shares: np.ndarray, valid: float, test: float) -> np.ndarray:
    """The part, as an index into `PARTS`, of rows with these shares: float [rows] -> int8 [rows]."""
    return np.where(shares < test, 2, np.where(shares < test + valid, 1, 0)).astype(np.int8)
