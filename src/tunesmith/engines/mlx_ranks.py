"""Ranks under `mlx.launch`: MLX's ring over TCP, between Macs on one network and on any CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from tunesmith.engines.ranks import Array, lost
from tunesmith.errors import EngineError


class MlxRanks:
    """See `ranks.Ranks`."""

    def __init__(self) -> None:
        """Meet the others. Raises `EngineError` when they do not come."""
        try:
            self._group = mx.distributed.init(strict=True, backend="ring")
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"the processes that train together do not meet at {_addresses()} ({error}); "
                "see that each host can reach these addresses"
            ) from error
        self.rank, self.size = self._group.rank(), self._group.size()

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        return [cast("Array", self._sum(array)) for array in arrays]

    def _sum(self, array: Any) -> Any:
        if isinstance(array, mx.array):
            with lost():
                found = mx.distributed.all_sum(array, group=self._group, stream=mx.cpu)
                mx.eval(found)
            return found
        parts = [np.frombuffer(data, array.dtype) for data in self.gather(array.tobytes())]  # MLX adds no float64
        return np.sum(parts, axis=0).astype(array.dtype).reshape(array.shape)

    def share(self, data: bytes) -> bytes:
        length = self._sum(mx.array([len(data) if self.rank == 0 else 0]))
        buffer = np.frombuffer(data, np.uint8) if self.rank == 0 else np.zeros(int(length.item()), np.uint8)
        return np.array(self._sum(mx.array(buffer))).tobytes() if len(buffer) else b""

    def gather(self, data: bytes) -> list[bytes]:
        lengths = self._gathered(np.array([len(data)], np.int32)).tolist()
        longest = max(lengths)
        if not longest:
            return [b""] * self.size
        found = self._gathered(np.frombuffer(data.ljust(longest, b"\0"), np.uint8)).reshape(self.size, longest)
        return [row[:length].tobytes() for row, length in zip(found, lengths, strict=True)]

    def _gathered(self, array: np.ndarray) -> np.ndarray:
        with lost():
            return np.array(mx.distributed.all_gather(mx.array(array), group=self._group, stream=mx.cpu))

    def leave(self) -> None:
        self.gather(b"")


def _addresses() -> str:
    try:
        return ", ".join(
            address for node in json.loads(Path(os.environ["MLX_HOSTFILE"]).read_text()) for address in node
        )
    except (KeyError, OSError, ValueError):
        return "any address: there is no MLX_HOSTFILE"
