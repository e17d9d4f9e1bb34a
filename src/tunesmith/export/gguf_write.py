"""From a model folder and its weights to one GGUF file that llama.cpp runs.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read back by
`models.gguf_file`. Every offset is known before the first weight is read, so the tensors are written
one slice of rows after another: memory is that of a few slices, whatever the model's size.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import ModelError
from tunesmith.export.gguf_metadata import Form, Value, read_form
from tunesmith.export.gguf_vocabulary import vocabulary, wants_rstrip
from tunesmith.export.quantize import MIXTURES, kind_of, pack, row_bytes
from tunesmith.export.weights import SLICE_ITEMS, computed_ahead
from tunesmith.files import atomic_file
from tunesmith.models.gguf_tensors import interleaved

ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT32 = 4, 6, 7, 8, 9, 5


class WeightSource(Protocol):
    """What `export.weights.Weights` is. ``rows`` is called from several threads at once."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def rows(self, name: str, start: int, stop: int) -> np.ndarray: ...


class Planned(NamedTuple):
    """One tensor of the file. ``rows(start, stop)`` gives float32 [stop - start, columns]; a vector is
    one row. ``step``: rows that are read at once."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    step: int
    rows: Callable[[int, int], np.ndarray]

    @property
    def height(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return self.height * row_bytes(self.shape[-1], self.kind)


def write_gguf(
    weights: WeightSource,
    base: Path,
    target: Path,
    kind: str,
    *,
    provenance: Mapping[str, str] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Write ``target``, whole or not at all; the same input gives the same bytes.

    ``kind`` is one of `quantize.MIXTURES`; ``base`` gives config.json, tokenizer and chat template.
    ``provenance``: further ``general.*`` and ``tunesmith.*`` keys. Raises `ModelError` for an
    architecture or a tokenizer that llama.cpp would not run as it was trained, `StorageError` when the
    disk is full.
    """
    form = read_form(base)
    tensors = plan(weights, form, kind)
    embedding = next((t for t in tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise ModelError(f"{base}: its weights hold no model.embed_tokens.weight; download the model again")
    metadata = _general(form, base, kind, provenance or {}) | form.metadata | vocabulary(base, embedding.shape[0])
    write_container(target, metadata, tensors, on_progress)


def _general(form: Form, base: Path, kind: str, provenance: Mapping[str, str]) -> dict[str, Value]:
    if wrong := [key for key in provenance if not key.startswith(("general.", "tunesmith."))]:
        raise ValueError(f"{wrong[0]} is neither general.* nor tunesmith.*")
    keys: dict[str, Value] = {
        "general.architecture": form.arch,
        "general.type": "model",
        "general.name": base.name,
        "general.file_type": int(MIXTURES[kind][1]),
        "general.quantization_version": 2,
        **provenance,
    }
    if form.arch == "phi3":  # llama.cpp goes by the name, see `wants_rstrip`
        name = re.sub("phi-?3", "phi", str(keys["general.name"]), flags=re.IGNORECASE)
        keys["general.name"] = f"Phi-3 {name}" if wants_rstrip(base) else name
    return keys


# -- tensors -----------------------------------------------------------------------------------------


def plan(weights: WeightSource, form: Form, kind: str) -> list[Planned]:
    """Every tensor of the file, from bottom to top. No weight is read yet."""
    tied = form.shape.tied
    planned: list[Planned] = []
    for name in weights.names():
        if tied and name == "lm_head.weight":
            continue
        stored = form.tensor_name(name)
        if stored is None:
            raise ModelError(f"the tensor {name} has no place in a GGUF of the architecture {form.arch}")
        shape = tuple(weights.shape(name))
        chosen = kind_of(stored, shape, form.shape.layers, kind, tied=tied)
        planned.append(_planned(weights, form, name, stored, shape, chosen))
    for name, values in form.factors.items():
        planned.append(Planned(name, values.shape, Kind.F32, 1, lambda start, stop, values=values: values[None]))
    _check_complete(planned, form)
    return sorted(planned, key=lambda t: tensor_place(t.name))


def _planned(weights: WeightSource, form: Form, name: str, stored: str, shape: tuple[int, ...], kind: Kind) -> Planned:
    count, columns, vector = shape[0], shape[-1], len(shape) == 1
    heads = heads_of(name, form)
    offset = np.float32(form.shape.norm_offset if name.endswith("norm.weight") else 0.0)
    step = max(1, SLICE_ITEMS // columns)
    if heads:  # whole heads at once, whose rows change places
        step = max(1, step // (count // heads)) * (count // heads)

    def rows(start: int, stop: int) -> np.ndarray:
        values = weights.rows(name, 0, count) if vector else weights.rows(name, start, stop)
        if heads:
            values = interleaved(values, count // heads)
        return (values + offset if offset else values).reshape(-1, columns)

    return Planned(stored, shape, kind, step, rows)


def heads_of(name: str, form: Form) -> int:
    """How many heads a tensor has whose rows llama.cpp wants in another order; 0: none."""
    if not form.permuted:
        return 0
    return {"q_proj": form.shape.heads, "k_proj": form.shape.kv_heads}.get(name.split(".")[-2], 0)


def _check_complete(planned: list[Planned], form: Form) -> None:
    """Every layer has the same tensors, and there is a head: a file without one is refused by llama.cpp."""
    names = {t.name for t in planned}
    parts = {match[1] for name in names if (match := re.fullmatch(r"blk\.\d+\.(.+)", name))}
    expected = {f"blk.{i}.{part}" for i in range(form.shape.layers) for part in parts} | {"output_norm.weight"}
    expected |= set() if form.shape.tied else {"output.weight"}
    if missing := sorted(expected - names):
        raise ModelError(f"the model lacks the tensor that a GGUF calls {missing[0]}; download the model again")


def tensor_place(name: str) -> tuple[int, int, str]:
    """The order of tensors in a file: embedding, layers as numbers, last norm and head."""
    match = re.match(r"blk\.(\d+)\.", name)
    if match:
        return 1, int(match[1]), name
    return (2 if name.startswith("output") else 0), 0, name


# -- the container -----------------------------------------------------------------------------------


def write_container(
    target: Path,
    metadata: Mapping[str, Value],
    tensors: list[Planned],
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """A GGUF with these keys and tensors, in this order. Raises what `atomic_file` and the rows raise."""

    def packed(job: tuple[int, int]) -> tuple[np.ndarray, bytes]:
        tensor, start = tensors[job[0]], job[1]
        stop = min(start + tensor.step, tensor.height)
        try:
            values = pack(tensor.rows(start, stop), tensor.kind)
        except ModelError as error:
            raise ModelError(f"{tensor.name}: {error}") from None
        return values, bytes(-tensor.nbytes % ALIGNMENT if stop == tensor.height else 0)

    total, written = sum(_aligned(t.nbytes) for t in tensors), 0
    with atomic_file(target) as file:
        file.write(_header(metadata, tensors))
        for values, padding in computed_ahead(packed, _jobs(tensors)):
            written += file.write(values.data) + file.write(padding)
            if on_progress:
                on_progress(written / total)


def _jobs(tensors: list[Planned]) -> Iterator[tuple[int, int]]:
    """(number of the tensor, its first row) of every slice."""
    for i, tensor in enumerate(tensors):
        for start in range(0, tensor.height, tensor.step):
            yield i, start


def _header(metadata: Mapping[str, Value], tensors: list[Planned]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), *_value(value)]
    offset = 0
    for t in tensors:
        parts += [_text(t.name), struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *reversed(t.shape))]
        parts.append(struct.pack("<IQ", int(t.kind), offset))
        offset += _aligned(t.nbytes)
    raw = b"".join(parts)
    return raw.ljust(_aligned(len(raw)), b"\0")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _value(value: Value) -> Iterable[bytes]:
    if isinstance(value, str):
        return struct.pack("<I", _STRING), _text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)), *map(_text, value)
    if isinstance(value, np.ndarray):
        kind = {"int32": _INT32, "float32": _FLOAT32}[value.dtype.name]
        return struct.pack("<IIQ", _ARRAY, kind, len(value)), value.astype(value.dtype.newbyteorder("<")).tobytes()
    if isinstance(value, bool):
        return (struct.pack("<I?", _BOOL, value),)
    return (struct.pack("<II", _UINT32, value) if isinstance(value, int) else struct.pack("<If", _FLOAT32, value),)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw
