"""ggml's own quantizers, called without compiling anything, and the mixtures of llama.cpp's files.

`xllamacpp` carries ggml in its shared library; ``ggml_quantize_chunk`` there is what llama.cpp's
``llama-quantize`` calls, so the bytes are the same. The rules of a mixture are those of
``llama_tensor_get_type_impl`` in llama.cpp's ``src/llama-quant.cpp``, as far as dense models go.
"""

from __future__ import annotations

import ctypes
import math
import re

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.constants import LlamaFileType as FileType

from tunesmith.errors import EngineError, ModelError
from tunesmith.models import ggml

MIXTURES: dict[str, tuple[Kind, FileType]] = {
    "f32": (Kind.F32, FileType.ALL_F32),
    "f16": (Kind.F16, FileType.MOSTLY_F16),
    "bf16": (Kind.BF16, FileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, FileType.MOSTLY_Q8_0),
    "q6_k": (Kind.Q6_K, FileType.MOSTLY_Q6_K),
    "q5_k_m": (Kind.Q5_K, FileType.MOSTLY_Q5_K_M),
    "q4_k_m": (Kind.Q4_K, FileType.MOSTLY_Q4_K_M),
}
"""What may be wanted: the kind most matrices get, and the number the file says of itself."""
_NARROW = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
"""What takes the place of a kind whose blocks of 256 do not fit a row."""


def pack(rows: np.ndarray, kind: Kind) -> np.ndarray:
    """The bytes (uint8) of float32 ``rows`` [n, columns] in ``kind``; rows are independent of each other.

    May run in several threads at once: Python's lock is free meanwhile. Raises `ModelError` for
    numbers that are not finite or that 16-bit floats cannot hold, `EngineError` when `xllamacpp` is
    missing or carries no ggml, `ValueError` where columns do not fit the kind's blocks.
    """
    data = np.ascontiguousarray(rows, np.float32)
    count, columns = data.shape
    size = count * row_bytes(columns, kind)
    highest = max(float(data.max()), -float(data.min())) if size else 0.0
    if not highest < math.inf:
        raise ModelError("its weights hold numbers that are not finite; train again or download the model again")
    if kind is Kind.F32:
        return data.reshape(-1).view(np.uint8)
    packed = ggml.to_half(data).reshape(-1).view(np.uint8) if kind is Kind.F16 else _quantized(data, kind, size)
    # llama.cpp's quantizer refuses such tensors too; only large weights can bring an infinite scale.
    if highest >= ggml.FIRST_INFINITE["F16"] and not _is_finite(packed.reshape(count, -1), kind):
        raise ModelError(f"its weights are too large for the 16-bit floats of {kind.name}; export it as bf16")
    return packed


def _quantized(data: np.ndarray, kind: Kind, size: int) -> np.ndarray:
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    arguments = (ctypes.c_int, pointer, pointer, number, number, number, pointer)
    packed = np.empty(size, np.uint8)
    chunk = ggml.function("ggml_quantize_chunk", ctypes.c_size_t, *arguments)
    written = chunk(int(kind), data.ctypes.data, packed.ctypes.data, 0, *data.shape, None)
    if written != size:
        raise EngineError(
            f"ggml wrote {written} bytes of {kind.name} where {size} were expected; this version of "
            f"xllamacpp does not fit this version of gguf"
        )
    return packed


def _is_finite(packed: np.ndarray, kind: Kind) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(quants.dequantize(packed, kind)).all())


def row_bytes(columns: int, kind: Kind) -> int:
    """The bytes of one row. Raises `ValueError` when it is no whole number of the kind's blocks."""
    items, size = GGML_QUANT_SIZES[kind]
    if columns % items:
        raise ValueError(f"rows of {columns} do not fit {kind.name}, which takes {items} at a time")
    return columns // items * size


def kind_of(name: str, shape: tuple[int, ...], layers: int, wanted: str, *, tied: bool) -> Kind:
    """How llama.cpp stores the tensor of this GGUF name in a file of the mixture ``wanted``.

    ``shape`` is rows first; ``tied``: the embedding is the head as well.
    """
    default = MIXTURES[wanted][0]
    if len(shape) < 2 or not name.endswith("weight") or "_norm.weight" in name:
        return Kind.F32
    if default in (Kind.F32, Kind.F16, Kind.BF16):
        return default
    columns = shape[-1]
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        narrow = columns % GGML_QUANT_SIZES[default][0] != 0
        kind = Kind.Q8_0 if narrow or default is Kind.Q8_0 else Kind.Q6_K
    else:
        kind = _layer_kind(name, shape, layers, default) if wanted.endswith("_m") else default
    return _fitting(kind, columns)


def _layer_kind(name: str, shape: tuple[int, ...], layers: int, default: Kind) -> Kind:
    """The _M mixtures give more bits to values and to the MLP's way down, on a good third of the layers."""
    found = re.fullmatch(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.weight", name)
    if not found:
        return default
    layer, eighth = int(found[1]), layers // 8
    if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
        return Kind.Q6_K
    # llama.cpp knows the 70B models by their 80 layers and heads that share values: those are small.
    shared = found[2] == "attn_v" and shape[0] < shape[1]
    return Kind.Q5_K if default is Kind.Q4_K and layers == 80 and shared else default


def _fitting(kind: Kind, columns: int) -> Kind:
    """The kind, or the nearest whose blocks fit a row."""
    if columns % GGML_QUANT_SIZES[kind][0]:
        kind = _NARROW.get(kind, Kind.F16)
    return kind if columns % GGML_QUANT_SIZES[kind][0] == 0 else Kind.F16
