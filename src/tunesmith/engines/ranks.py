"""Processes that train one adapter together: each takes rows of its own, and their sums are those of one process.

Every rank makes the same calls in the same order. What goes from one to another is arrays and bytes, never pickled
objects: a rank must not be able to run code in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

from tunesmith.errors import RanksLost, first_line

Array = TypeVar("Array")
LOST = "another process of this training has ended"
"""How the sentence begins of a rank that ended because another one did."""


class Ranks(Protocol):
    """``rank`` of ``size`` processes, counted from 0. All raise `RanksLost` when another process has ended."""

    rank: int
    size: int

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """Of numpy or of the engine's own arrays, the sums over all ranks: the same bits on each of them."""
        ...

    def share(self, data: bytes) -> bytes:
        """What rank 0 gives."""
        ...

    def gather(self, data: bytes) -> list[bytes]:
        """What every rank gives, by rank."""
        ...

    def leave(self) -> None:
        """Wait until all are here, and part from them."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        return list(arrays)

    def share(self, data: bytes) -> bytes:
        return data

    def gather(self, data: bytes) -> list[bytes]:
        return [data]

    def leave(self) -> None:
        pass


ALONE = Alone()


def total(ranks: Ranks, number: float) -> float:
    """The sum of one number over all ranks, in float64: exact for counts."""
    return float(ranks.sum([np.array([number], np.float64)])[0][0])


def agreed(ranks: Ranks, wanted: bool) -> bool:
    """Whether any rank wants it; all get the same answer."""
    return total(ranks, wanted) > 0


@contextmanager
def lost() -> Iterator[None]:
    """Every engine's way of saying that another process has ended becomes one."""
    try:
        yield
    except RuntimeError as error:
        raise RanksLost(f"{LOST} ({first_line(error)})") from error
