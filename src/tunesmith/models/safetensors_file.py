"""safetensors files, written one tensor at a time and read by their header.

The file is eight bytes (the header's length), a JSON header, then the tensors' bytes one after
another: https://github.com/huggingface/safetensors#format. The `safetensors` package writes a
dictionary that is wholly in memory; a merged 7B model does not fit there, so this writer asks for
each tensor only when its turn has come.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.files import atomic_file
from tunesmith.models.stored import ARRAYS, gone, read_into
from tunesmith.models.stored import scratch as buffers

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
HEADER_LIMIT = 100_000_000
"""Longer headers are refused, as the `safetensors` package does: they are no sane file."""

Chunk = bytes | np.ndarray


class Tensor(NamedTuple):
    """One tensor to be written. ``data()`` gives its little-endian bytes, row-major, as one piece or
    as an iterable of pieces; BF16 comes as bytes or as an array of any dtype with those bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], Chunk | Iterable[Chunk]]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * ITEM_BYTES[self.dtype]


class TensorInfo(NamedTuple):
    """Where a tensor lies: ``start`` and ``stop`` are byte offsets from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class InSafetensors(NamedTuple):
    """A tensor of a safetensors file, as `Stored`."""

    path: Path
    name: str
    info: TensorInfo

    @property
    def dtype(self) -> str:
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    def rows(self, start: int, stop: int, *, scratch: bool = False) -> np.ndarray:
        dtype, (count, *inner) = self._dtype(), self.shape
        start, stop, _ = slice(start, max(start, stop)).indices(count)
        shape = (stop - start, *inner)
        values = buffers.array("stored", shape, dtype) if scratch else np.empty(shape, dtype)
        read_into(self.path, self.info.start + start * math.prod(inner) * dtype.itemsize, values)
        return values

    def chunks(self) -> Iterator[np.ndarray]:
        """The whole at once, mapped from disk: what is written into it is not written to the file."""
        try:
            yield np.memmap(self.path, self._dtype(), "c", self.info.start, self.shape)
        except FileNotFoundError:
            raise gone(self.path) from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path} cannot be read ({error}); download it again") from None

    def _dtype(self) -> np.dtype:
        if self.dtype not in ARRAYS:
            raise ModelError(
                f"{self.path}: {self.name} is stored as {self.dtype}, which cannot be read here; "
                f"use the model's 16-bit folder or a GGUF of it"
            )
        return ARRAYS[self.dtype]


def write_safetensors(
    path: Path,
    tensors: Iterable[Tensor],
    *,
    metadata: dict[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write ``path``; memory needed is that of the largest piece a tensor gives.

    The file appears under its name only when it is complete and flushed to disk. ``progress`` is
    called with the written fraction. Raises `StorageError` when the disk is full or cannot be
    written, `ValueError` when a tensor gives another number of bytes than its shape has.
    """
    # Wide items first, so that every tensor starts at a multiple of its item size.
    ordered = sorted(tensors, key=lambda t: -ITEM_BYTES[t.dtype])
    total = sum(t.nbytes for t in ordered)
    with atomic_file(path) as file:
        file.write(_header(ordered, metadata or {"format": "pt"}))
        written = 0
        for tensor in ordered:
            _write_tensor(file, tensor)
            written += tensor.nbytes
            if progress:
                progress(written / total if total else 1.0)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, by name, without reading them.

    Raises `ModelError` when the file is missing, cut short or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            raw = file.read(length) if length <= HEADER_LIMIT else b""
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(f"{path} cannot be read ({reason}); download the model again") from None
    if size < 8 + length and length <= HEADER_LIMIT:
        raise _cut_short(path, size, 8 + length)
    tensors = _parse(raw, 8 + length, path)
    end = max((t.stop for t in tensors.values()), default=8 + length)
    if size < end:
        raise _cut_short(path, size, end)
    return tensors


def _parse(raw: bytes, base: int, path: Path) -> dict[str, TensorInfo]:
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors: dict[str, TensorInfo] = {}
        for name, entry in header.items():
            start, stop = (int(offset) for offset in entry["data_offsets"])
            info = TensorInfo(str(entry["dtype"]), tuple(map(int, entry["shape"])), base + start, base + stop)
            nbytes = int(np.prod(info.shape, dtype=np.int64)) * ITEM_BYTES.get(info.dtype, 0)
            if start < 0 or (nbytes and stop - start != nbytes):
                raise ValueError(name)
            tensors[name] = info
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} is not a safetensors file; download it again") from None


def _cut_short(path: Path, size: int, expected: int) -> ModelError:
    return ModelError(f"{path} is cut short: it has {size:,} bytes and should have {expected:,}; download it again")


def _header(tensors: list[Tensor], metadata: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for tensor in tensors:
        if tensor.name in header:
            raise ValueError(f"two tensors are called {tensor.name}")
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _write_tensor(file: IO[bytes], tensor: Tensor) -> None:
    data, written = tensor.data(), 0
    for piece in [data] if isinstance(data, bytes | np.ndarray) else data:
        raw = piece if isinstance(piece, bytes) else np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
        written += file.write(raw)
    if written != tensor.nbytes:
        raise ValueError(f"{tensor.name} gave {written} bytes; its shape {tensor.shape} has {tensor.nbytes}")
