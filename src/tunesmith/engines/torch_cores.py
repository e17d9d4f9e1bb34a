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
        self._threads: dict[int, list[ThreadPoolExecutor]] = {}

    def each(self, do: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """``do`` of every job, results in order. One job alone gets all cores; several share them.

        No more jobs than threads: each is done by the thread of its place. What a part of the rows leaves for its way
        back is let go by the thread that made it then, and memory is not needed once for each of them.
        Raises `OutOfMemory` when memory is full.
        """
        with memory_errors():
            if len(jobs) < 2:
                return [do(job) for job in jobs]
            threads = self._of(min(len(jobs), self.count))
            if len(jobs) == len(threads):
                return [done.result() for done in [t.submit(do, job) for t, job in zip(threads, jobs, strict=True)]]
            left, results = iter(enumerate(jobs)), dict[int, Result]()  # whoever is free takes the next

            def work() -> None:
                for place, job in left:  # next() of an enumeration is one step of Python's: no two get the same
                    results[place] = do(job)

            for done in [thread.submit(work) for thread in threads]:
                done.result()
            return [results[place] for place in range(len(jobs))]

    def rounds(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """As many jobs together as the cores do at once."""
        return (jobs[i : i + self.count] for i in range(0, len(jobs), self.count))

    def _of(self, count: int) -> list[ThreadPoolExecutor]:
        if count not in self._threads:
            inner = max(1, self.count // count)
            self._threads[count] = [
                ThreadPoolExecutor(1, "core", torch.set_num_threads, (inner,)) for _ in range(count)
            ]
        return self._threads[count]


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
