"""Texts that the torch engine writes at once: one cache, a row of it for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tunesmith.engines.torch_decoder import Decoder, Updates
from tunesmith.engines.writing import shared_beginning


class TorchSlots:
    """`engines.writing.Slots`. Texts are kept without gaps in the first rows of the cache, each from column 0 on; what
    lies behind a text's end in its row is never looked at."""

    def __init__(self, decoder: Decoder, updates: Updates) -> None:
        self._decoder, self._updates = decoder, updates
        self._cache = decoder.new_cache(0, 0)
        self._lengths = list[int]()
        self.rows = list[int]()

    @torch.no_grad()
    def admit(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        first, shared = len(self.rows), shared_beginning(prompts)
        self._cache.reserve(first + len(prompts), max(map(len, prompts)) + room)
        if shared:
            self._read([prompts[0][:shared]], first, 0)
            self._cache.spread(first, len(prompts), shared)
        logits = self._read([prompt[shared:] for prompt in prompts], first, shared)
        self.rows += rows
        self._lengths += [len(prompt) for prompt in prompts]
        return logits

    def _read(self, texts: Sequence[Sequence[int]], first: int, behind: int) -> np.ndarray:
        """Logits behind each text; all begin at the column ``behind``."""
        lengths = [len(text) for text in texts]
        ids = torch.tensor([[*text, *[0] * (max(lengths) - len(text))] for text in texts], device=self._decoder.device)
        states = self._decoder.read(ids, self._cache, slice(first, first + len(texts)), [behind], self._updates)
        last = torch.tensor(lengths, device=states.device) - 1
        return self._logits(states[torch.arange(len(texts), device=states.device), last])

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> np.ndarray:
        self._cache.reserve(len(tokens), max(self._lengths) + 1)
        ids = torch.tensor(tokens, device=self._decoder.device)[:, None]
        states = self._decoder.read(ids, self._cache, slice(0, len(tokens)), self._lengths, self._updates)
        self._lengths = [length + 1 for length in self._lengths]
        return self._logits(states[:, 0])

    def _logits(self, states: Tensor) -> np.ndarray:
        return self._decoder.logits(states).cpu().numpy()

    def leave(self, rows: Sequence[int]) -> None:
        for row in rows:
            place, last = self.rows.index(row), len(self.rows) - 1
            self._cache.move(last, place, self._lengths[last])
            self.rows[place], self._lengths[place] = self.rows[last], self._lengths[last]
            self.rows.pop()
            self._lengths.pop()
