"""Texts that the MLX engine writes at once."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from tunesmith.engines.mlx_decoder import Decoder
from tunesmith.engines.writing import Slots

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
        """The next tokens are of these rows, from one column on, or of each at its own."""
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
            columns = mx.array(starts)[:, None] + mx.arange(new.shape[2])
            whole[mx.arange(self._rows.start, self._rows.stop)[:, None], :, columns] = new.transpose(0, 2, 1, 3)

    def copy(self, source: int, targets: slice, length: int) -> None:
        """Give these rows what another one begins with."""
        assert self._keys is not None
        assert self._values is not None
        self._keys[targets, :, :length] = self._keys[source : source + 1, :, :length]
        self._values[targets, :, :length] = self._values[source : source + 1, :, :length]


class MlxSlots(Slots):
    def __init__(self, decoder: Decoder, adapter: bool) -> None:
        super().__init__()
        self._decoder, self._adapter = decoder, adapter
        self._caches = [LayerCache() for _ in range(decoder.arch.layers)]

    def _reserve(self, rows: int, room: int) -> None:
        for cache in self._caches:
            cache.reserve(rows, room)

    def _copy(self, source: int, targets: slice, length: int) -> None:
        for cache in self._caches:
            cache.copy(source, targets, length)

    def _logits(self, ids: np.ndarray, rows: slice, starts: list[int], last: list[int]) -> np.ndarray:
        return np.array(self._decoder.head(self._states(ids, rows, starts)[mx.arange(len(ids)), mx.array(last)]))

    def _losses(
        self, ids: np.ndarray, starts: list[int], at: tuple[np.ndarray, np.ndarray], targets: np.ndarray
    ) -> np.ndarray:
        states = self._states(ids, slice(0, len(ids)), starts)[mx.array(at[0]), mx.array(at[1])]
        return np.array(self._decoder.token_losses(states, mx.array(targets)))

    def _states(self, ids: np.ndarray, rows: slice, starts: list[int]) -> mx.array:
        for cache in self._caches:
            cache.begin(rows, starts)
        places = mx.array(starts)[:, None] + mx.arange(ids.shape[1])
        with self._decoder.adapted(self._adapter):
            return self._decoder.hidden(mx.array(ids), self._caches, places=places)
