"""Token ids of many rows in one file, mapped into memory: a million rows cost no more of it than one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from tunesmith.dataset.tokens import Sequence

LEARNED = np.uint32(1 << 31)
"""The highest bit of a token says whether it is learned; no vocabulary is that large."""


class Tokens:
    """Sequences of (token ids, learn mask), read where they are needed.

    packed: uint32 [tokens], ids with the learn mask in the highest bit; places: int64 [sequences, 2], where
    each ends in ``packed``, and which row of the dataset it is of (a row may become several sequences).
    """

    def __init__(self, packed: np.ndarray, places: np.ndarray) -> None:
        self._packed, self._ends = packed, places[:, 0]
        self.rows = places[:, 1]
        self.lengths = np.diff(self._ends, prepend=np.int64(0))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, sequence: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int32 [length], learn bool [length]."""
        end = int(self._ends[sequence])
        packed = np.asarray(self._packed[end - int(self.lengths[sequence]) : end])
        return (packed & ~LEARNED).astype(np.int32), packed >= LEARNED

    @classmethod
    def of(cls, sequences: Iterable[Sequence]) -> Tokens:
        """Kept in memory, from sequences as `tokens.encode` makes them, each a row of its own."""
        packed = [pack(s) for s in sequences]
        ends = np.cumsum([len(p) for p in packed], dtype=np.int64)
        whole = np.concatenate(packed) if packed else np.empty(0, np.uint32)
        return cls(whole, np.stack([ends, np.arange(len(ends))], 1))

    def spread(self, count: int) -> Tokens:
        """At most so many of the sequences, evenly spread over all of them, in memory."""
        taken = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)) if len(self) else []
        pieces = [self._packed[self._ends[i] - self.lengths[i] : self._ends[i]] for i in taken]
        places = (
            np.stack([np.cumsum([len(p) for p in pieces]), self.rows[taken]], 1) if pieces else np.empty((0, 2), int)
        )
        return Tokens(np.concatenate([np.empty(0, np.uint32), *pieces]), places)

    @classmethod
    def open(cls, folder: Path, part: str) -> Tokens:
        """What a `Writer` left there."""
        places = np.fromfile(folder / f"{part}.places", np.int64).reshape(-1, 2)
        if not len(places):  # an empty file cannot be mapped
            return cls(np.empty(0, np.uint32), places)
        return cls(np.memmap(folder / f"{part}.tokens", np.uint32, "r"), places)


def pack(sequence: Sequence) -> np.ndarray:
    """uint32 [length]: ids with the learn mask in the highest bit."""
    packed = np.array(sequence.ids, np.uint32)
    packed[np.array(sequence.learn, bool)] |= LEARNED
    return packed


class Writer:
    """Appends sequences to the files that `Tokens.open` reads."""

    def __init__(self, folder: Path, part: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tokens: IO[bytes] = (folder / f"{part}.tokens").open("wb")
        self._places: IO[bytes] = (folder / f"{part}.places").open("wb")
        self._end = self._row = 0

    def add_row(self, sequences: Iterable[np.ndarray]) -> None:
        """The sequences of one row, as `pack` makes them."""
        for packed in sequences:
            self._tokens.write(packed.tobytes())
            self._end += len(packed)
            self._places.write(np.array([self._end, self._row], np.int64).tobytes())
        self._row += 1

    def close(self) -> None:
        self._tokens.close()
        self._places.close()
