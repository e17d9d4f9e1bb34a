"""Continuing prompts together: padded on the left, one cache, finished rows leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tunesmith.engines.base import Generation
from tunesmith.engines.torch_decoder import Decoder, Updates


class Picker:
    """The next token of each row: the likeliest, or one drawn by the inverse of the cumulative
    distribution, from the row's own generator, so that what other rows do changes nothing.

    ``rows`` numbers the prompts that are still going.
    """

    def __init__(self, rows: list[int], temperature: float, seed: int) -> None:
        self.rows, self._temperature = rows, temperature
        self._draws = {row: np.random.default_rng([seed, row]) for row in rows}

    def __call__(self, logits: Tensor) -> Tensor:
        """float32 [rows, vocabulary] -> ids [rows]."""
        if self._temperature <= 0:
            return logits.argmax(-1)
        sums = torch.softmax(logits / self._temperature, -1).cumsum(-1)
        at = torch.tensor([[self._draws[row].random()] for row in self.rows], dtype=sums.dtype, device=sums.device)
        return torch.searchsorted(sums, at * sums[:, -1:], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


@torch.no_grad()
def continue_prompts(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    updates: Updates,
    picker: Picker,
    room: int,
    stop: frozenset[int],
    on_token: Callable[[int, int], None] | None,
) -> dict[int, Generation]:
    """At most ``room`` tokens behind each prompt, by the row that the picker gives it."""
    results = {row: Generation() for row in picker.rows}
    ids, pads = _left_padded(prompts, decoder.device)
    cache = decoder.new_cache(len(prompts), ids.shape[1] + room)
    for _ in range(room):
        chosen = picker(decoder.read(ids, pads, cache, updates))
        going = []
        for at, (row, token) in enumerate(zip(picker.rows, chosen.tolist(), strict=True)):
            if token in stop:
                results[row].stopped = True
                continue
            results[row].ids.append(token)
            if on_token:
                on_token(row, token)
            going.append(at)
        if not going:
            break
        ids = chosen[:, None]
        if len(going) < len(chosen):
            kept = torch.tensor(going, device=decoder.device)
            cache.keep(kept)
            ids, pads = ids[kept], pads[kept]
            picker.rows = [picker.rows[at] for at in going]
    return results


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(p) for p in prompts)
    pads = [longest - len(p) for p in prompts]
    ids = [[0] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(pads, device=device)
