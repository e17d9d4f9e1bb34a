"""Continue many prompts at once on MLX: padded on the left, one key/value cache per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache

from tunesmith.engines.base import Generation
from tunesmith.engines.mlx_decoder import Decoder
from tunesmith.errors import EngineError

OnToken = Callable[[int, int], None]


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    limit: int,
    stop: frozenset[int],
    pick: Picker,
    on_token: OnToken | None = None,
) -> list[Generation]:
    """Continue every prompt until a stop id or ``limit`` new tokens. A row that ended leaves the batch."""
    if not all(prompts):
        raise EngineError("a prompt to continue has no tokens; give it at least one")
    results = [Generation() for _ in prompts]
    live = list(range(len(prompts)))
    ids, caches = _start(decoder, prompts) if prompts else (mx.array([]), [])
    for _ in range(limit if prompts else 0):
        tokens = pick(decoder.head(decoder.hidden(ids, caches)[:, -1]), live)
        going = []
        for place, (row, token) in enumerate(zip(live, tokens, strict=True)):
            if token in stop:
                results[row].stopped = True
                continue
            going.append(place)
            results[row].ids.append(token)
            if on_token:
                on_token(row, token)
        if not going:
            break
        if len(going) < len(live):
            live = [live[place] for place in going]
            for cache in caches:
                cache.filter(mx.array(going))
        ids = mx.array([[tokens[place]] for place in going])
    return results


def _start(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> tuple[mx.array, list[BatchKVCache]]:
    """Ids [rows, longest], and caches that turn each row from its own first token on."""
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids = mx.array([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)])
    return ids, [BatchKVCache(padding) for _ in range(decoder.arch.layers)]


class Picker:
    """The next token of each row: the likeliest, or one drawn at a temperature.

    A row's draws come from (seed, row) alone: what other rows do, or when they end, changes nothing.
    """

    def __init__(self, rows: int, temperature: float, seed: int):
        self._temperature = temperature
        self._draws = [np.random.default_rng([seed, row]) for row in range(rows)]

    def __call__(self, logits: mx.array, rows: Sequence[int]) -> list[int]:
        """float32 [len(rows), vocabulary] -> ids."""
        if self._temperature <= 0:
            return mx.argmax(logits, axis=-1).tolist()  # type: ignore[return-value]
        u = mx.array([[self._draws[row].random()] for row in rows], mx.float32)
        sums = mx.cumsum(mx.softmax(logits / self._temperature, axis=-1), axis=-1)
        below = mx.sum(sums <= u * sums[:, -1:], axis=-1)  # inverse of the cumulative distribution
        return mx.minimum(below, logits.shape[-1] - 1).tolist()  # type: ignore[return-value]
