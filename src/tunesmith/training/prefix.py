"""The frozen prefix: what enters the lowest trained layer, computed once for each row and kept on disk.

Where only the top layers learn, those below give the same states in every epoch, validation and checkpoint, and in
every later run with the same model and number of trained layers. They are kept in the cache folder by the hash of the
model, the layers below, the precision and the engine, and each row's by the hash of its token ids.

Several ranks compute a share each and send it to all, and on each disk one of them writes: which rank needs a row is
another one in every epoch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from tunesmith import files
from tunesmith.engines.base import Engine
from tunesmith.engines.needs import FILL
from tunesmith.engines.ranks import Ranks, agreed
from tunesmith.errors import StorageError
from tunesmith.models.find import IMPORTER
from tunesmith.progress import Progress
from tunesmith.training.order import divide

SPARE = 2 << 30
"""Bytes of the disk that stay free."""
PAYS = 1.3
"""Tokens that would go through the lower layers, for each that does so once: below that it is not worth the disk."""

VERSION = 1
"""Raised when an engine gives other states for the same model: what was kept before is then not used."""

_ENTRY = np.dtype([("key", "u8", 2), ("start", "i8"), ("length", "i8")])
Row = Sequence[int] | np.ndarray


class Prefix:
    """States by token ids, in two files that only grow: ``states``, rows behind each other, and ``index``.

    A row counts as there when its entry and all of its states are: what a crash cut short is written again.
    """

    def __init__(self, model: str, below: int, width: int, engine: Engine) -> None:
        identity = [VERSION, IMPORTER, model, below, width, engine.precision, engine.name]
        self.folder = files.cache_folder() / "prefix" / files.value_hash(identity)[:24]
        self.dtype, self.width = np.dtype(np.uint16 if engine.precision == "bf16" else np.float32), width
        with files.storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)  # when it was used last
            in_use = os.open(self.folder / "in-use", os.O_RDWR | os.O_CREAT, 0o644)
            status = os.fstat(in_use)
            self._disk = f"{status.st_ino} {status.st_ctime_ns}"  # the same for all who see the same file
            self._states = os.open(self.folder / "states", os.O_RDONLY | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, in_use)
        weakref.finalize(self, os.close, self._states)
        files.try_lock(in_use, shared=True)
        self._ranks = engine.ranks
        self._load()

    def _load(self) -> None:
        """Take in what is there, as far as it is whole."""
        index = self.folder / "index"
        raw = index.read_bytes() if index.exists() else b""
        entries = np.frombuffer(raw[: len(raw) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY)
        rows = os.fstat(self._states).st_size // self.bytes_of(1)
        whole = (entries["start"] >= 0) & (entries["length"] > 0) & (entries["start"] + entries["length"] <= rows)
        entries = entries[: len(entries) if whole.all() else int(np.argmin(whole))]
        self._entries = entries[np.argsort(entries["key"][:, 0], kind="stable")]

    def of(self, ids: Row) -> np.ndarray | None:
        """States [length, width] of a row, or None. They are read, not mapped: pages of a mapped file count as this
        process's memory."""
        start = self._start(ids)
        if start is None:
            return None
        raw = os.pread(self._states, self.bytes_of(len(ids)), self.bytes_of(start))
        # Cut short by somebody else meanwhile: then it is not known.
        return np.frombuffer(raw, self.dtype).reshape(-1, self.width) if len(raw) == self.bytes_of(len(ids)) else None

    def _start(self, ids: Row) -> int | None:
        """Where the states of a row begin, in tokens."""
        first, second = _key(ids)
        at = int(np.searchsorted(self._entries["key"][:, 0], first))
        while at < len(self._entries) and self._entries["key"][at, 0] == first:
            _, start, length = self._entries[at]
            if self._entries["key"][at, 1] == second and length == len(ids):
                return int(start)
            at += 1
        return None

    def missing(self, rows: Iterable[Row]) -> list[Row]:
        """Those whose states are not there yet, each once; with several ranks, not on the disk of each of them."""
        every = list({_key(ids): ids for ids in rows}.values())
        lacks = np.array([self._start(ids) is None for ids in every], np.int64)
        return [ids for ids, lack in zip(every, self._ranks.sum([lacks])[0], strict=True) if lack]

    def bytes_of(self, tokens: int) -> int:
        return tokens * self.width * self.dtype.itemsize

    def fill(self, engine: Engine, rows: Sequence[Row], stop: Callable[[], bool]) -> Iterator[Progress]:
        """Compute what is not there yet. Raises `StorageError` when the disk is full: what was written stays."""
        ranks, writing = self._ranks, _Writing(self._ranks, self._disk)
        with (
            files.storage_errors(self.folder),  # closing writes too
            (self.folder / "states").open("ab") as states,
            (self.folder / "index").open("ab") as index,
        ):
            while agreed(ranks, writing.here and not files.try_lock(index.fileno())):  # it ends when the file is closed
                yield Progress("working", message="waiting for another run that computes the lower layers")
                if agreed(ranks, stop()):
                    return
                time.sleep(1)
            writing.attempt(lambda: self._mend(states, index))
            missing = sorted(self.missing(rows), key=len, reverse=True)
            total, done = sum(map(len, missing)), 0
            if missing:
                writing.attempt(lambda: self._make_room(self.bytes_of(total)))
            for block in _blocks(missing, FILL * ranks.size):
                writing.check()
                yield Progress("working", message="computing the lower layers, once", done=done, total=total)
                if agreed(ranks, stop()):
                    return
                found = self._computed(engine, block)
                writing.attempt(lambda block=block, found=found: self._add(block, found, states, index))
                done += sum(map(len, block))
            writing.check()
            self._load()

    def _computed(self, engine: Engine, rows: list[np.ndarray]) -> list[np.ndarray]:
        """States of all the rows, of which each rank computes some."""
        ranks = self._ranks
        if ranks.size == 1:
            return engine.prefix(rows)
        shares = divide(range(len(rows)), np.array([len(row) for row in rows]), ranks.size)
        mine = [rows[at] for at in shares[ranks.rank]]
        sent = ranks.gather(b"".join(np.ascontiguousarray(states).tobytes() for states in engine.prefix(mine)))
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for share, data in zip(shares, sent, strict=True):
            ends = np.cumsum([len(rows[at]) for at in share])[:-1]
            states = np.split(np.frombuffer(data, self.dtype).reshape(-1, self.width), ends)
            for at, one in zip(share, states, strict=False):  # an empty share is still one empty piece
                found[at] = one
        return found

    def _mend(self, states: IO[bytes], index: IO[bytes]) -> None:
        """Take away what a crash left half: an entry without its states would be that of the next row's."""
        self._load()
        index.truncate(self._entries.nbytes)
        end = max((self._entries["start"] + self._entries["length"]).tolist(), default=0)
        states.truncate(self.bytes_of(end))

    def _make_room(self, needed: int) -> None:
        """Remove what no run uses, what was not used for longest first, if that is enough. Raises `StorageError`."""
        free = shutil.disk_usage(self.folder).free
        others = [p for p in self.folder.parent.iterdir() if p != self.folder and _is_idle(p)]
        sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in others}
        if free + sum(sizes.values()) < needed + SPARE:
            raise StorageError(
                f"{needed / 1e9:.1f} GB are needed in {self.folder.parent}, and {free / 1e9:.1f} GB are free"
            )
        for other in sorted(others, key=lambda p: p.stat().st_mtime):
            if free >= needed + SPARE:
                return
            shutil.rmtree(other, ignore_errors=True)
            free += sizes[other]

    def _add(self, rows: Sequence[Row], found: Sequence[np.ndarray], states: IO[bytes], index: IO[bytes]) -> None:
        """Append rows: states first, and their entries only when those are on disk."""
        entries = np.empty(len(rows), _ENTRY)
        start = states.seek(0, os.SEEK_END) // self.bytes_of(1)
        for i, (ids, row) in enumerate(zip(rows, found, strict=True)):
            entries[i] = _key(ids), start, len(ids)
            states.write(np.ascontiguousarray(row).tobytes())
            start += len(ids)
        states.flush()
        os.fsync(states.fileno())
        index.write(entries.tobytes())
        index.flush()
        self._load()


class _Writing:
    """One rank writes for all who see the same ``disk``; what fails there is known to all when they `check`."""

    def __init__(self, ranks: Ranks, disk: str) -> None:
        self.here = ranks.gather(disk.encode()).index(disk.encode()) == ranks.rank
        self._ranks = ranks
        self._error: Exception | None = None

    def attempt(self, write: Callable[[], None]) -> None:
        """``write``, where this rank does and nothing failed before."""
        if self.here and self._error is None:
            try:
                write()
            except (StorageError, OSError) as error:
                self._error = error

    def check(self) -> None:
        """Raises what failed on any of them."""
        if agreed(self._ranks, self._error is not None):
            raise self._error or StorageError("the disk of another host is full or cannot be written")


def _is_idle(folder: Path) -> bool:
    """Whether no run has it open."""
    try:
        handle = os.open(folder / "in-use", os.O_RDWR)
    except OSError:
        return folder.is_dir()
    try:
        return files.try_lock(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Plan:
    """What to keep states of: a model's ``below`` lowest layers for these rows, which go through them ``passes`` times
    on average without it. ``stage`` is the one that needs them."""

    stage: str
    model: str
    below: int
    width: int
    rows: Sequence[Row]
    passes: float

    def carry_out(self, engine: Engine, stop: Callable[[], bool]) -> Generator[Progress, None, Prefix | None]:
        """The states of all rows, filled in where they are missing; None when that does not pay, when the disk is full,
        and when ``stop()`` ended it."""
        prefix, error = self._opened(engine)
        if agreed(engine.ranks, prefix is None):
            yield self._note("computed again in every pass", f"what they give cannot be kept: {error or 'on one host'}")
            return None
        assert prefix is not None
        try:
            missing = prefix.missing(self.rows)
            tokens, new = sum(map(len, self.rows)), sum(map(len, missing))
            if self.passes * tokens < PAYS * new:
                yield self._note("computed again in every pass", "there are too few to keep what they give")
                return None
            for progress in prefix.fill(engine, missing, stop) if missing else ():
                yield replace(progress, stage=self.stage)
            if agreed(engine.ranks, stop()):
                return None
            if prefix.missing(self.rows):
                raise StorageError(f"{prefix.folder} was taken away meanwhile")
        except (StorageError, OSError) as error:
            yield self._note("computed again in every pass", f"what they give cannot be kept: {error}")
            return None
        size = f"{prefix.bytes_of(tokens) / 1e6:,.0f} MB on disk"
        yield self._note("computed once for all passes", size if missing else f"{size} from an earlier run")
        return prefix

    def _opened(self, engine: Engine) -> tuple[Prefix | None, Exception | None]:
        """Where states are kept, or why they cannot be."""
        try:
            return Prefix(self.model, self.below, self.width, engine), None
        except (StorageError, OSError) as error:
            return None, error

    def _note(self, what: str, why: str) -> Progress:
        layers = "the frozen layer is" if self.below == 1 else f"the {self.below} frozen layers are"
        return Progress("note", stage=self.stage, message=f"{layers} {what} ({why})")


def _key(ids: Row) -> tuple[int, int]:
    digest = hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _blocks(rows: list[Row], most: int) -> Iterator[list[np.ndarray]]:
    block, tokens = list[np.ndarray](), 0
    for ids in rows:
        block.append(np.asarray(ids))
        tokens += len(ids)
        if tokens >= most:
            yield block
            block, tokens = [], 0
    if block:
        yield block
