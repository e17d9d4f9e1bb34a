"""ggml out of xllamacpp's shared library: what computes here as llama.cpp does, without compiling anything."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import EngineError, ModelError
from tunesmith.models.llamacpp import shared_library

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
FIRST_INFINITE = {"F32": math.inf, "BF16": float.fromhex("0x1.ffp127"), "F16": 65520.0}
"""The smallest number that rounds to infinity."""


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(shared_library()))
    except OSError as error:
        raise _unusable(error) from None


@functools.cache
def function(name: str, result: Any, *arguments: Any) -> Any:
    """One of ggml's functions. Raises `EngineError` when `xllamacpp` is missing or does not have it."""
    try:
        found = getattr(_library(), name)
    except AttributeError as error:
        raise _unusable(error) from None
    found.restype, found.argtypes = result, list(arguments)
    return found


def _unusable(error: Exception) -> EngineError:
    return EngineError(f"ggml cannot be used ({error}); install it again with: pip install xllamacpp")


def dequantizer(kind: Kind) -> str:
    """The function that makes float32 of the blocks of ``kind``: "dequantize_row_q4_K" of Q4_K."""
    return "dequantize_row_" + re.sub("_k$", "_K", kind.name.lower())


def can_dequantize(kind: Kind) -> bool:
    """Whether ggml has one. Raises `EngineError` when `xllamacpp` is missing."""
    return hasattr(_library(), dequantizer(kind))


def dequantize(blocks: np.ndarray, kind: Kind, out: np.ndarray) -> None:
    """Blocks (uint8, contiguous) to ``out`` (float32, contiguous): 0.4 to 1.5 ns a number, where the `gguf` package's
    numpy takes 3 to 11 for the same bits."""
    function("ggml_cpu_init", None)()
    arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    function(dequantizer(kind), None, *arguments)(blocks.ctypes.data, out.ctypes.data, out.size)


def narrow(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 rounded to the nearest of ``dtype``, ties to even; BF16 as uint16.

    Raises `ModelError` when a number would become infinite, or is none.
    """
    if not fits(values, dtype):
        raise ModelError(f"{name} holds numbers that are no {TORCH_NAMES[dtype]}; export it in another type")
    if dtype == "F32":
        return values
    return to_half(values) if dtype == "F16" else _converted("ggml_cpu_fp32_to_bf16", values, np.uint16)


def fits(values: np.ndarray, dtype: str) -> bool:
    """Whether every one of these float32 is a number in ``dtype`` too, neither infinite nor none."""
    limit = FIRST_INFINITE[dtype]
    return bool(values.max() < limit and values.min() > -limit)


def widen(values: np.ndarray) -> np.ndarray:
    """The inverse of `narrow`, exactly: BF16 as uint16, F16 or F32 becomes float32."""
    if values.dtype == np.uint16:
        wide = values.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return _converted("ggml_cpu_fp16_to_fp32", values, np.float32) if values.dtype == np.float16 else values


def to_half(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """float32 rounded to float16; too large ones become infinite. ``out`` (contiguous) is where they go."""
    return _converted("ggml_cpu_fp32_to_fp16", values, np.float16, out)


def _converted(name: str, values: np.ndarray, dtype: type[np.generic], out: np.ndarray | None = None) -> np.ndarray:
    """By the processor's own instructions: 0.1 to 0.3 ns a number, where numpy takes 1 to 3."""
    values = np.ascontiguousarray(values)
    function("ggml_cpu_init", None)()  # where the processor has no such instruction, its tables
    out = np.empty(values.shape, dtype) if out is None else out
    convert = function(name, None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    convert(values.ctypes.data, out.ctypes.data, values.size)
    return out
