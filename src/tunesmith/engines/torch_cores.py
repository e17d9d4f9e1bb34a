"""Each core takes rows of its own, instead of all cores sharing every matrix.

A step is thousands of small operations. Split over cores inside, each of them ends with all cores
waiting for the slowest; with another program on one core that wait is a time slice, and a step takes
ten times as long. Rows need no waiting until the gradients are added. Measured in docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from tunesmith.errors import OutOfMemory

Job = TypeVar("Job")
Result = TypeVar("Result")


class Cores:
    """A thread for each core. torch lets go of Python's lock while it computes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def each(self, do: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """``do`` of every job, results in order. One job alone gets all cores; several share them.

        Raises `OutOfMemory` when memory is full.
        """
        with memory_errors():
            if len(jobs) < 2:
                yield from map(do, jobs)
            else:
                yield from self._pool(min(len(jobs), self.count)).map(do, jobs)

    def rounds(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """As many jobs together as the cores do at once."""
        return (jobs[i : i + self.count] for i in range(0, len(jobs), self.count))

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        if threads not in self._pools:
            inner = max(1, self.count // threads)
            self._pools[threads] = ThreadPoolExecutor(threads, "core", torch.set_num_threads, (inner,))
        return self._pools[threads]


@contextmanager
def memory_errors() -> Iterator[None]:
    """Torch's several ways of saying that memory is full become one."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(_TOO_LARGE) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory(_TOO_LARGE) from error
        raise


_TOO_LARGE = (
    "this does not fit into the machine's memory; "
    "try a smaller train.batch or train.micro_batch, a smaller data.max_tokens or fewer train.layers"
)
