"""One tensor of a model folder, whatever file it lies in, and what reading it needs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from tunesmith.errors import ModelError

ARRAYS = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
"""How numpy holds each dtype of weights; BF16 as its bits."""


class Stored(Protocol):
    """A tensor that is read when it is asked for. ``dtype`` is one of `ARRAYS` where it can be read at all."""

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str:
        """Its name inside the file."""
        ...

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int, *, scratch: bool = False) -> np.ndarray:
        """Slice of the first axis, on the calling thread. Raises `ModelError` when the file was moved, lost its end or
        holds what is no weight. ``scratch``: in a buffer that this thread's next call writes over."""
        ...

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows in order, in as few pieces as bounded memory allows; each may be written over by the next."""
        ...


class _Scratch(threading.local):
    """A thread's buffers, used again and again: asking the system anew for the pages of arrays of this size took
    half of the time of an export."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with whatever was in it, until the next one for the same use."""
        size = math.prod(shape) * dtype.itemsize
        if use not in self._buffers or len(self._buffers[use]) < size:
            self._buffers[use] = np.empty(size, np.uint8)
        return self._buffers[use][:size].view(dtype).reshape(shape)


scratch = _Scratch()


def read_into(path: Path, offset: int, values: np.ndarray) -> None:
    """Fill ``values`` with the bytes of a file from ``offset`` on. Raises `ModelError`."""
    try:
        with path.open("rb", buffering=0) as file:  # np.fromfile takes 1.5 times as long
            file.seek(offset)
            read = file.readinto(values.reshape(-1).view(np.uint8).data)
    except FileNotFoundError:
        raise gone(path) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check the disk") from None
    if read != values.nbytes:
        raise ModelError(f"{path.resolve()} was cut short while it was read; download it again")


def gone(path: Path) -> ModelError:
    """The error for weights that are no longer where they were found."""
    return ModelError(f"{path.resolve()} was moved or deleted; give the model again by its place now")
