"""Rows on disk while it is decided which of them stay: lines of JSON in one file, their keys in another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tunesmith.dataset.digest import KEYS, Digest

PIECE = 1 << 20
"""Bytes of rows that are handed to a process at once."""

_INDEX = np.dtype([("end", "i8"), ("source", "i4"), ("keys", KEYS)])


class Spool:
    """Written row by row, closed, then read: of each row its line, and in memory only its keys.

    keys: KEYS [rows]; source: int32 [rows], the index of the source that each row is of. Both after `finish`.
    """

    def __init__(self, folder: Path) -> None:
        self._rows = (folder / "rows").open("w+b")
        self._index = (folder / "index").open("w+b")
        self._size = 0
        self._ends = np.empty(0, np.int64)
        self.keys, self.source = np.empty(0, KEYS), np.empty(0, np.int32)

    def add(self, made: Digest, source: int) -> None:
        """Append the rows of a piece."""
        index = np.empty(len(made.sizes), _INDEX)
        index["end"] = self._size + np.cumsum(made.sizes)
        index["source"], index["keys"] = source, made.keys
        self._size += self._rows.write(made.text)
        self._index.write(index.tobytes())

    def finish(self) -> None:
        """All rows are there: from now on they are read."""
        self._rows.flush()
        self._index.seek(0)
        index = np.fromfile(self._index, _INDEX)
        self._ends, self.source, self.keys = index["end"].copy(), index["source"].copy(), index["keys"].copy()

    def close(self) -> None:
        self._rows.close()
        self._index.close()

    def line(self, row: int) -> bytes:
        """The row as `Example.written` has it."""
        start = int(self._ends[row - 1]) if row else 0
        self._rows.seek(start)
        return self._rows.read(int(self._ends[row]) - start)

    def pieces(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """Rows and their lines, about `PIECE` bytes at a time."""
        start, size, lines = 0, 0, list[bytes]()
        for at, row in enumerate(rows):
            lines.append(self.line(int(row)))
            size += len(lines[-1])
            if size > PIECE:
                yield rows[start : at + 1], lines
                start, size, lines = at + 1, 0, []
        if lines:
            yield rows[start:], lines
