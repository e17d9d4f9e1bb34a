"""Ranks that are threads of one process: quick, and their order is settled by a barrier alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tunesmith.errors import RanksLost

Result = TypeVar("Result")


class ThreadRanks:
    def __init__(self, rank: int, size: int, barrier: threading.Barrier, places: list[Any]) -> None:
        self.rank, self.size, self._barrier, self._places = rank, size, barrier, places

    def _all(self, value: Any) -> list[Any]:
        try:
            self._places[self.rank] = value
            self._barrier.wait(20)
            found = list(self._places)
            self._barrier.wait(20)
        except threading.BrokenBarrierError:
            raise RanksLost("another process of this training has ended") from None
        return found

    def sum(self, arrays: Sequence[Any]) -> list[Any]:
        return [sum(parts[1:], parts[0]) for parts in zip(*self._all(list(arrays)), strict=True)]

    def share(self, data: bytes) -> bytes:
        return self._all(data)[0]

    def gather(self, data: bytes) -> list[bytes]:
        return self._all(data)

    def leave(self) -> None:
        self._all(None)


def together(size: int, do: Callable[[ThreadRanks], Result]) -> list[Result]:
    """What each of the ranks comes to; the first error of its own that one of them raises ends all."""
    barrier, places = threading.Barrier(size), [None] * size

    def one(rank: int) -> Result:
        try:
            return do(ThreadRanks(rank, size, barrier, places))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        done = [threads.submit(one, rank) for rank in range(size)]
    for error in filter(None, (d.exception() for d in done)):
        if not isinstance(error, RanksLost):
            raise error
    return [d.result() for d in done]
