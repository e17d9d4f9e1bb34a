"""A GGUF file's metadata and tensors, read by its header.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package
has a reader too; it keeps two numpy arrays per token and merge (250 MB for Llama 3's vocabulary)
and fails with a different exception for every place where a file may end too early.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tunesmith.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. ``shape`` is in numpy's order (rows first), ``offset`` from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Gguf:
    """What a GGUF says of itself, and its tensors by name. No weight is read before it is asked for."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value; ``{arch}`` in the key stands for the architecture."""
        return self.metadata.get(key.format(arch=self.metadata.get("general.architecture")), default)

    def require(self, key: str) -> Any:
        """`get`, or `ModelError` when the key is missing."""
        value = self.get(key)
        if value is None:
            name = key.format(arch=self.get("general.architecture"))
            raise ModelError(f"{self.path} lacks the metadata {name}; convert or download it again")
        return value

    def rows(self, tensor: GgufTensor) -> np.ndarray:
        """The stored bytes, uint8 [rows, bytes per row], mapped from disk. The items of a vector of
        floats count as rows."""
        raw = np.memmap(self.path, np.uint8, "r", offset=tensor.offset, shape=(tensor.nbytes,))
        rows = int(np.prod(tensor.shape[:-1] if len(tensor.shape) > 1 else tensor.shape))
        return raw.reshape(rows, -1)


def read_gguf(path: Path) -> Gguf:
    """Read the header of a GGUF file.

    Raises `ModelError` when it is missing, no GGUF, of a version or byte order that is not
    supported, cut short, or one part of several.
    """
    size = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(8)
            if magic[:4] != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file; give a .gguf file or a model folder")
            version = struct.unpack("<I", magic[4:].ljust(4, b"\0"))[0]
            if len(magic) == 8 and version not in (2, 3):
                raise ModelError(f"{path} is GGUF version {version}; convert it again to version 3")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                metadata, tensors = _parse(_Cursor(data), path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})") from None
    except (struct.error, IndexError, OverflowError, MemoryError):
        raise ModelError(
            f"{path} is cut short: it ends after {size:,} bytes, inside its header; download or export it again"
        ) from None
    except (ValueError, KeyError, ZeroDivisionError) as error:
        raise ModelError(f"{path} is damaged ({error}); download it again") from None
    end = max((t.offset + t.nbytes for t in tensors.values()), default=0)
    if size < end:
        raise ModelError(
            f"{path} is cut short: it has {size:,} bytes and should have {end:,}; download or export it again"
        )
    if int(metadata.get("split.count", 0)) > 1:
        raise ModelError(f"{path} is one of several parts; join them with llama-gguf-split --merge")
    return Gguf(path, metadata, tensors)


class _Cursor:
    """Reads forward through the mapped header; `struct.error` or `IndexError` past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 8

    def take(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.take("Q")
        raw = self.data[self.at : self.at + length]
        if len(raw) < length:
            raise IndexError(length)
        self.at += length
        return raw.decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise ValueError(f"metadata of the unknown type {kind}")
        return self.take(_SCALARS[kind])

    def array(self) -> list[Any]:
        kind, count = self.take("I"), self.take("Q")
        if kind not in _SCALARS:
            return [self.value(kind) for _ in range(count)]
        code = f"<{count}{_SCALARS[kind]}"
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return values


def _parse(cursor: _Cursor, path: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    tensor_count, value_count = cursor.take("Q"), cursor.take("Q")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.take("I"))
    entries = []
    for _ in range(tensor_count):
        name = cursor.text()
        shape = tuple(cursor.take("Q") for _ in range(cursor.take("I")))[::-1]
        entries.append((name, shape, cursor.take("I"), cursor.take("Q")))
    alignment = int(metadata.get("general.alignment", 32))
    base = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, type_number, offset in entries:
        kind = _type(type_number, name, path)
        items, block_bytes = GGML_QUANT_SIZES[kind]
        nbytes = int(np.prod(shape, dtype=object)) // items * block_bytes
        tensors[name] = GgufTensor(name, shape, kind, base + offset, nbytes)
    return metadata, tensors


def _type(number: int, name: str, path: Path) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(number)
    except ValueError:
        raise ModelError(
            f"{path}: {name} is stored in the unknown type {number}; use an F16, Q8_0 or Q4_K_M file"
        ) from None
