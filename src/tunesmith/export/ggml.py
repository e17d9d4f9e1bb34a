"""ggml out of xllamacpp's shared library: what computes here as llama.cpp does, without compiling anything."""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np

from tunesmith.errors import EngineError, ModelError
from tunesmith.models.llamacpp import shared_library

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
FIRST_INFINITE = {"F32": math.inf, "BF16": float.fromhex("0x1.ffp127"), "F16": 65520.0}
"""The smallest number that rounds to infinity."""


@functools.cache
def function(name: str, result: Any, *arguments: Any) -> Any:
    """One of ggml's functions. Raises `EngineError` when `xllamacpp` is missing or does not have it."""
    try:
        found = getattr(ctypes.CDLL(str(shared_library())), name)
    except (OSError, AttributeError) as error:
        raise EngineError(f"ggml cannot be used ({error}); install it again with: pip install xllamacpp") from None
    found.restype, found.argtypes = result, list(arguments)
    return found


def narrow(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 rounded to the nearest of ``dtype``, ties to even; BF16 as uint16.

    Raises `ModelError` when a number would become infinite, or is none.
    """
    limit = FIRST_INFINITE[dtype]
    if not (values.max() < limit and values.min() > -limit):
        raise ModelError(f"{name} holds numbers that are no {TORCH_NAMES[dtype]}; export it in another type")
    if dtype == "F32":
        return values
    return to_half(values) if dtype == "F16" else _converted("ggml_cpu_fp32_to_bf16", values, np.uint16)


def widen(values: np.ndarray) -> np.ndarray:
    """The inverse of `narrow`, exactly: BF16 as uint16, F16 or F32 becomes float32."""
    if values.dtype == np.uint16:
        wide = values.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return _converted("ggml_cpu_fp16_to_fp32", values, np.float32) if values.dtype == np.float16 else values


def to_half(values: np.ndarray) -> np.ndarray:
    """float32 rounded to float16; too large ones become infinite."""
    return _converted("ggml_cpu_fp32_to_fp16", values, np.float16)


def _converted(name: str, values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """By the processor's own instructions: 0.1 to 0.3 ns a number, where numpy takes 1 to 3."""
    values = np.ascontiguousarray(values)
    function("ggml_cpu_init", None)()  # where the processor has no such instruction, its tables
    out = np.empty(values.shape, dtype)
    convert = function(name, None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    convert(values.ctypes.data, out.ctypes.data, values.size)
    return out
