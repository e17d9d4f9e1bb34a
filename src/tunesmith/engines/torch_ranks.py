"""Ranks under torchrun's protocol (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT): gloo between processors,
nccl between graphics processors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tunesmith.engines.ranks import Array, lost
from tunesmith.errors import EngineError, first_line

LOST = timedelta(minutes=30)
"""How long a rank may keep the others waiting: longer than a pause of the guard lasts."""


class TorchRanks:
    """See `ranks.Ranks`."""

    def __init__(self) -> None:
        """Meet the others. Raises `EngineError` when they do not come."""
        cuda = torch.cuda.is_available()
        if cuda:
            own, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if own >= cards:
                raise EngineError(f"there are only {cards} graphics cards here; start no more processes than that")
            torch.cuda.set_device(own)
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=LOST)
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise EngineError(
                f"the processes that train together do not meet at {address} ({first_line(error)}); "
                "see that each host can reach this address"
            ) from error
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        given = [torch.as_tensor(array).detach() for array in arrays]
        found: list[Any] = [None] * len(given)
        for kind in dict.fromkeys((t.dtype, t.device) for t in given):
            places = [i for i, t in enumerate(given) if (t.dtype, t.device) == kind]
            flat = torch.cat([given[i].flatten() for i in places])  # one message instead of hundreds
            with lost():
                dist.all_reduce(flat)
            for i, part in zip(places, flat.split([given[i].numel() for i in places]), strict=True):
                found[i] = part.view(given[i].shape)
        return [cast("Array", t if isinstance(a, Tensor) else t.numpy()) for a, t in zip(arrays, found, strict=True)]

    def share(self, data: bytes) -> bytes:
        length = torch.tensor([len(data)])
        with lost():
            dist.broadcast(length, 0)
            buffer = _bytes(data) if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()

    def gather(self, data: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with lost():
            dist.all_gather(lengths, torch.tensor([len(data)]))
            longest = max(int(length) for length in lengths)
            found = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
            dist.all_gather(found, _bytes(data.ljust(longest, b"\0")))
        return [t[: int(length)].numpy().tobytes() for t, length in zip(found, lengths, strict=True)]

    def leave(self) -> None:
        with lost():
            dist.barrier()
        dist.destroy_process_group()


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
