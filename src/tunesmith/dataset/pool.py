"""All cores for work on rows: processes, because tokenizing and parsing hold Python's lock."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from tunesmith.errors import EngineError, OutOfMemory

Task = TypeVar("Task")
Result = TypeVar("Result")

WORTH = 3
"""So many tasks of about a megabyte must come before processes are started, which takes half a second."""


class Pool(AbstractContextManager["Pool"]):
    """Maps functions over tasks; what is small is done right here, and so is the rest until processes have begun."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or _cores()
        self._executor: ProcessPoolExecutor | None = None
        self._begun: list[Future[None]] = []

    def map(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """``do`` of every task, results in order; few tasks are under way at a time, so memory is bounded.

        Raises what ``do`` raises, and `OutOfMemory` when a process was killed.
        """
        tasks = iter(tasks)
        if self._executor is None:
            yield from map(do, islice(tasks, WORTH))
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                if not self._is_ready():
                    yield do(task)
                    continue
                waiting.append(self._started().submit(do, task))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            if not self._begun[0].done() or self._begun[0].exception():
                raise EngineError(
                    "no further process can be started: memory is full, or a script of yours must prepare data under "
                    '`if __name__ == "__main__":`, because every process reads it again'
                ) from None
            raise OutOfMemory(
                "a process that reads rows was killed, most likely for want of memory; "
                "close other programs, or run it again with fewer sources"
            ) from None
        finally:
            for future in waiting:
                future.cancel()

    def _is_ready(self) -> bool:
        if not self._begun:
            self._begun = [self._started().submit(_nothing)]
        return self._begun[0].done()

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Not forked: threads of the tokenizer and of torch do not survive that.
            self._executor = ProcessPoolExecutor(self._workers, get_context("spawn"), _begin)
        return self._executor

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nothing() -> None:
    """A first task: done when a process has begun."""


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its processes: they would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
