"""Texts that the torch engine writes at once."""

from __future__ import annotations

import numpy as np
import torch

from tunesmith.engines.torch_cores import memory_errors
from tunesmith.engines.torch_decoder import Decoder, Updates
from tunesmith.engines.writing import Slots


class TorchSlots(Slots):
    def __init__(self, decoder: Decoder, updates: Updates) -> None:
        super().__init__()
        self._decoder, self._updates = decoder, updates
        self._cache = decoder.new_cache()

    def _reserve(self, rows: int, room: int) -> None:
        with memory_errors():
            self._cache.reserve(rows, room)

    def _copy(self, source: int, targets: slice, length: int) -> None:
        self._cache.copy(source, targets, length)

    @torch.no_grad()
    def _logits(self, ids: np.ndarray, rows: slice, starts: list[int], last: list[int]) -> np.ndarray:
        with memory_errors():
            taken = torch.from_numpy(ids).to(self._decoder.device)
            states = self._decoder.read(taken, self._cache, rows, starts, self._updates)
            behind = states[torch.arange(len(ids), device=states.device), torch.tensor(last, device=states.device)]
            return self._decoder.logits(behind).cpu().numpy()

    @torch.no_grad()
    def _losses(
        self, ids: np.ndarray, starts: list[int], at: tuple[np.ndarray, np.ndarray], targets: np.ndarray
    ) -> np.ndarray:
        with memory_errors():
            taken, rows, places, wished = (torch.from_numpy(a).to(self._decoder.device) for a in (ids, *at, targets))
            states = self._decoder.read(taken, self._cache, slice(0, len(ids)), starts, self._updates)
            return self._decoder.token_losses(states[rows, places], wished).cpu().numpy()
