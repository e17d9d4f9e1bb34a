"""Every request that was answered, with its reply: appended, flushed to disk, never written again.

One JSON object a line, ``{"key": …, "request": …, "reply": …}``. In memory are 16 bytes of each key and where its
line begins: 20 MB for 100,000.
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from tunesmith import files
from tunesmith.teacher.request import Reply, Request

_PIECE = 1 << 16


class Journal:
    """The journal in ``path``, made when the first reply comes. Threads may use it together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens_in = self.tokens_out = 0
        self._places: dict[bytes, int] = {}
        self._end = 0
        self._written = self._synced = 0
        self._write, self._sync = threading.Lock(), threading.Lock()
        with files.storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._recall()

    def _recall(self) -> None:
        """Read what is there, a line at a time. A last line that was torn by a crash is taken off."""
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._take(line)
                self._end += len(line)
        if os.fstat(self._file).st_size > self._end:
            os.ftruncate(self._file, self._end)

    def _take(self, line: bytes) -> None:
        try:
            row = orjson.loads(line)
            key, reply = bytes.fromhex(row["key"]), Reply(**row["reply"])
        except (ValueError, TypeError, KeyError):
            return  # a disk's fault: what stood there is asked again
        if key not in self._places:
            self._places[key] = self._end
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out

    def __len__(self) -> int:
        return len(self._places)

    def find(self, request: Request) -> Reply | None:
        """The reply to this request, if it was ever answered."""
        place = self._places.get(bytes.fromhex(request.key))
        return None if place is None else Reply(**orjson.loads(self._line(place))["reply"])

    def _line(self, place: int) -> bytes:
        parts = [os.pread(self._file, _PIECE, place)]
        while b"\n" not in parts[-1]:
            place += len(parts[-1])
            parts.append(os.pread(self._file, _PIECE, place))
        return b"".join(parts).partition(b"\n")[0]

    def add(self, request: Request, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns. Raises `StorageError` when the disk is full."""
        row: dict[str, Any] = {"key": request.key, "request": request.body(), "reply": asdict(reply)}
        line = files.json_line(row)
        with files.storage_errors(self.path):
            with self._write:
                try:
                    if os.write(self._file, line) < len(line):
                        raise OSError(28, "No space left on device")
                except OSError:
                    os.ftruncate(self._file, self._end)  # no half line in the middle
                    raise
                self._places.setdefault(bytes.fromhex(request.key), self._end)
                self._end += len(line)
                self.tokens_in += reply.tokens_in
                self.tokens_out += reply.tokens_out
                self._written += 1
                mine = self._written
            with self._sync:  # one flush for all that were written while the last one took place
                if self._synced < mine:
                    upto = self._written
                    os.fsync(self._file)
                    self._synced = upto

    def close(self) -> None:
        os.close(self._file)
