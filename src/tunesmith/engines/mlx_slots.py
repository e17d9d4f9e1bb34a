"""Texts that the MLX engine writes at once: one cache a layer, a row of it for each."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from tunesmith.engines.mlx_decoder import Decoder
from tunesmith.engines.writing import shared_beginning

COLUMNS = 64
"""A cache grows by so many at once."""


class LayerCache:
    """Keys and values [rows, groups, room, size] of one layer, as mlx-lm's layers use a cache."""

    def __init__(self) -> None:
        self._shape = 0, 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self.offset: int | mx.array = 0
        """Where the next tokens begin: for rotary positions, of all rows or of each."""
        self._rows, self._starts = slice(0, 0), [0]

    def reserve(self, rows: int, room: int) -> None:
        """Make it hold so many rows of so many tokens, and keep what is in it."""
        had, long = self._shape
        if rows <= had and room <= long:
            return
        self._shape = max(rows, had), max(-(-room // COLUMNS) * COLUMNS, long)
        if self._keys is not None and self._values is not None:
            self._keys, self._values = (self._grown(whole) for whole in (self._keys, self._values))

    def _grown(self, whole: mx.array) -> mx.array:
        places, room = self._shape
        had, _, long, _ = whole.shape
        return mx.pad(whole, [(0, places - had), (0, 0), (0, room - long), (0, 0)])

    def begin(self, rows: slice, starts: list[int]) -> None:
        """The next tokens are of these rows, from one column on, or of each at its own (then they are one a row)."""
        self._rows, self._starts = rows, starts
        self.offset = starts[0] if len(starts) == 1 else mx.array(starts)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in what a layer computed, and give all of these rows so far."""
        kept, also = self._taken(self._keys, keys), self._taken(self._values, values)
        self._keys, self._values = kept, also
        end = max(self._starts) + keys.shape[2]
        return kept[self._rows, :, :end], also[self._rows, :, :end]

    def _taken(self, whole: mx.array | None, new: mx.array) -> mx.array:
        if whole is None:
            places, room = self._shape
            whole = mx.zeros((places, new.shape[1], room, new.shape[3]), new.dtype)
        self._put(whole, new)
        return whole

    def _put(self, whole: mx.array, new: mx.array) -> None:
        starts = self._starts
        if len(starts) == 1:
            whole[self._rows, :, starts[0] : starts[0] + new.shape[2]] = new
        else:
            whole[mx.arange(self._rows.start, self._rows.stop), :, mx.array(starts)] = new[:, :, 0]

    def copy(self, source: int, targets: slice, length: int) -> None:
        """Give these rows what another one begins with."""
        assert self._keys is not None
        assert self._values is not None
        self._keys[targets, :, :length] = self._keys[source : source + 1, :, :length]
        self._values[targets, :, :length] = self._values[source : source + 1, :, :length]


class MlxSlots:
    """`engines.writing.Slots`. Texts are kept without gaps in the first rows of the caches, each from column 0 on; what
    lies behind a text's end in its row is never looked at."""

    def __init__(self, decoder: Decoder, adapter: bool) -> None:
        self._decoder, self._adapter = decoder, adapter
        self._caches = [LayerCache() for _ in range(decoder.arch.layers)]
        self._lengths = list[int]()
        self.rows = list[int]()

    def admit(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        first, shared = len(self.rows), shared_beginning(prompts)
        self._reserve(first + len(prompts), max(map(len, prompts)) + room)
        if shared:
            self._read([prompts[0][:shared]], first, 0)
            for cache in self._caches:
                cache.copy(first, slice(first + 1, first + len(prompts)), shared)
        logits = self._read([prompt[shared:] for prompt in prompts], first, shared)
        self.rows += rows
        self._lengths += [len(prompt) for prompt in prompts]
        return logits

    def _read(self, texts: Sequence[Sequence[int]], first: int, behind: int) -> np.ndarray:
        """Logits behind each text; all begin at the column ``behind``."""
        lengths = [len(text) for text in texts]
        ids = mx.array([[*text, *[0] * (max(lengths) - len(text))] for text in texts])
        states = self._states(ids, slice(first, first + len(texts)), [behind])
        return self._logits(states[mx.arange(len(texts)), mx.array(lengths) - 1])

    def _reserve(self, rows: int, room: int) -> None:
        for cache in self._caches:
            cache.reserve(rows, room)

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        self._reserve(len(tokens), max(self._lengths) + 1)
        states = self._states(mx.array(list(tokens))[:, None], slice(0, len(tokens)), self._lengths)
        self._lengths = [length + 1 for length in self._lengths]
        return self._logits(states[:, 0])

    def _states(self, ids: mx.array, rows: slice, starts: list[int]) -> mx.array:
        for cache in self._caches:
            cache.begin(rows, starts)
        at = mx.array(starts)[:, None] + mx.arange(ids.shape[1])
        with self._decoder.adapted(self._adapter):
            return self._decoder.hidden(ids, self._caches, places=at)

    def _logits(self, states: mx.array) -> np.ndarray:
        return np.array(self._decoder.head(states))

    def leave(self, rows: Sequence[int]) -> None:
        for row in rows:
            place, last = self.rows.index(row), len(self.rows) - 1
            if place != last:
                for cache in self._caches:
                    cache.copy(last, slice(place, place + 1), self._lengths[last])
            self.rows[place], self._lengths[place] = self.rows[last], self._lengths[last]
            self.rows.pop()
            self._lengths.pop()
