"""All cores for work on rows: processes, because tokenizing and parsing hold Python's lock."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import TypeVar

from tunesmith.errors import EngineError, OutOfMemory
from tunesmith.machine import cores

Task = TypeVar("Task")
Result = TypeVar("Result")

WORTH = 3
"""So many tasks of about a megabyte must come before processes are started, which takes half a second."""


class Pool(AbstractContextManager["Pool"]):
    """Maps functions over tasks; what is small is done right here, and so is the rest until processes have begun."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or cores()
        self._executor: ProcessPoolExecutor | None = None
        self._begun: Future[None] | None = None

    def begin(self) -> None:
        """Start processes for a large input ahead of time, without waiting for them."""
        if self._begun is None:
            self._begun = Future()
            threading.Thread(target=self._start, args=[self._begun], daemon=True).start()

    def map(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """``do`` of every task, results in order; few tasks are under way at a time, so memory is bounded.

        Raises what ``do`` raises, and `OutOfMemory` when a process was killed.
        """
        tasks = iter(tasks)
        if self._begun is None:
            yield from map(do, islice(tasks, WORTH))
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                if not self._is_ready():
                    yield do(task)
                    continue
                waiting.append(self._submit(do, task))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            if self._begun and self._begun.done() and self._begun.exception():
                raise EngineError(
                    "no further process can be started: memory is full, or a script of yours must prepare data under "
                    '`if __name__ == "__main__":`, because every process reads it again'
                ) from None
            raise OutOfMemory(
                "a process that reads rows was killed, most likely for want of memory; "
                "close other programs, or run it again with fewer sources"
            ) from None

    def _is_ready(self) -> bool:
        self.begin()
        begun = self._begun
        if begun is None or not begun.done():
            return False
        begun.result()
        return True

    def _start(self, begun: Future[None]) -> None:
        """In a thread, because starting waits until the first process has read the program."""
        try:
            resource_tracker.ensure_running()  # or it would let Ctrl-C through again
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which the processes inherit
            self._executor = ProcessPoolExecutor(self._workers, _context(), _begin)
            firsts = [self._executor.submit(_nothing) for _ in range(self._workers)]  # each starts a process now
            begun.set_result(firsts[0].result())
        except BaseException as error:
            begun.set_exception(error)

    def _submit(self, do: Callable[[Task], Result], task: Task) -> Future[Result]:
        assert self._executor is not None
        return self._executor.submit(do, task)

    def __exit__(self, *_: object) -> None:
        if self._begun is not None:
            futures.wait([self._begun])
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How processes are started. Never from this one: threads of the tokenizer and of torch do not survive that. On
    Linux they come from a small one that has read the program once for all; macOS's libraries do not survive that."""
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["tunesmith.dataset.digest"])
    forkserver.ensure_running()
    return context


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
