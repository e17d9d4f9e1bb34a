"""Parquet, in slices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.sources.documents import EMPTY
from tunesmith.sources.table import Row, Table
from tunesmith.sources.text import Unreadable

BATCH = 1000
"""Rows in memory at one time."""


def read_parquet(path: Path) -> Iterator[Table]:
    """The one table of a file. Raises `Unreadable`."""
    with path.open("rb") as file:
        magic = file.read(4)
        if not magic:
            raise Unreadable(EMPTY)
        if magic != b"PAR1":
            raise Unreadable("not a Parquet file, whatever its name says; give it the right suffix or leave it out")
    import polars as pl
    from polars.exceptions import PanicException

    def numbered(frames: Iterator[Any]) -> Iterator[Row]:
        number = 0
        try:
            for frame in frames:
                for cells in frame.iter_rows():
                    number += 1
                    yield Row(number, cells)
        except (Exception, PanicException):
            yield Row(number + 1, (), "the file is broken from here on; copy it again")

    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        header = frame.collect_schema().names()
        rows = numbered(iter(frame.collect_batches(chunk_size=BATCH, maintain_order=True)))
    except (Exception, PanicException):
        raise Unreadable("a Parquet file that is broken; copy it again") from None
    yield Table("", header, rows)
