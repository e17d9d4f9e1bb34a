"""The tensors of a GGUF under their Hugging Face names, read from its blocks when they are asked for.

Quantized tensors become 16-bit floats; F16, BF16 and F32 keep their bytes. What llama.cpp's
converter did to the weights is undone: rows of q and k are put back in order (llama only), norms of
Gemma lose the 1 that was added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import ModelError
from tunesmith.machine import cores
from tunesmith.models import ggml
from tunesmith.models.gguf_file import Gguf, GgufTensor
from tunesmith.models.stored import ARRAYS, read_into
from tunesmith.models.stored import scratch as buffers

CHUNK_ITEMS = 1 << 22
"""Weights that are given at once: 8 MB in 16 bits."""
PIECE_ITEMS = 1 << 18
"""Weights that one thread de-quantizes at once: 1 MB of float32, which stay in its core's cache."""

_FLOATS = {Kind.F32: "F32", Kind.F16: "F16", Kind.BF16: "BF16"}
_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_LAYER = _LAYER | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True, eq=False)
class InGguf:
    """A tensor of a GGUF file, as `stored.Stored`.

    order: which stored row comes at each place, where that is another one; minus: what each number loses.
    """

    path: Path
    stored: GgufTensor
    dtype: str
    order: np.ndarray | None
    minus: float

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def rows(self, start: int, stop: int, *, scratch: bool = False) -> np.ndarray:
        start, stop, _ = slice(start, max(start, stop)).indices(self.shape[0])
        shape, dtype = (stop - start, *self.shape[1:]), ARRAYS[self.dtype]
        values = buffers.array("rows", shape, dtype) if scratch else np.empty(shape, dtype)
        if values.size:
            self._fill(values, start)
        return values

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows in order, `CHUNK_ITEMS` weights at a time in the same buffer, computed on all cores (ggml lets go of
        Python's lock)."""
        count, width = self.shape[0], math.prod(self.shape[1:])
        step, piece = (max(1, items // width) for items in (CHUNK_ITEMS, PIECE_ITEMS))
        buffer = np.empty((min(step, count), *self.shape[1:]), ARRAYS[self.dtype])
        with ThreadPoolExecutor(min(8, cores())) as pool:
            for start in range(0, count, step):
                chunk = buffer[: count - start]
                starts = range(0, len(chunk), piece)
                run = map if len(starts) == 1 else pool.map
                list(run(lambda at, c=chunk, s=start: self._fill(c[at : at + piece], s + at), starts))
                yield chunk

    def _fill(self, out: np.ndarray, start: int) -> None:
        """Compute ``out`` (contiguous), the rows from ``start`` on."""
        raw = self._raw(start, start + len(out))
        if self.stored.type not in _FLOATS:
            values = buffers.array("floats", out.shape, np.dtype(np.float32))
            ggml.dequantize(raw, self.stored.type, values)
            if not ggml.fits(values, self.dtype):
                raise ModelError(
                    f"{self.path.resolve()}: {self.name} holds numbers that are no 16-bit floats; download it again"
                )
            ggml.to_half(values, out)
            return
        values = raw.view(ARRAYS[_FLOATS[self.stored.type]]).reshape(out.shape)
        out[...] = ggml.widen(values) - np.float32(self.minus) if self.minus else values

    def _raw(self, start: int, stop: int) -> np.ndarray:
        """The bytes of rows [rows, bytes], read from the file and put in order."""
        width = self.stored.nbytes // self.shape[0]
        places = None if self.order is None else self.order[start:stop]
        first, end = (start, stop) if places is None else (int(places.min()), int(places.max()) + 1)
        raw = buffers.array("stored", (end - first, width), np.dtype(np.uint8))
        read_into(self.path, self.stored.offset + first * width, raw)
        return raw if places is None else raw[places - first]


def hf_tensors(gguf: Gguf, config: dict[str, Any]) -> dict[str, InGguf]:
    """The tensors under their Hugging Face names, from bottom to top.

    Raises `ModelError` for a tensor that is missing, is not known, cannot be read, or has another shape
    than ``config`` says.
    """
    tensors: dict[str, InGguf] = {}
    for name, stored in gguf.tensors.items():
        if name == "rope_freqs.weight":
            continue
        full_name = hf_name(name, gemma=config["model_type"] == "gemma3_text")
        if full_name is None:
            raise ModelError(f"{gguf.path} holds the tensor {name}, which is not supported")
        tensors[full_name] = _tensor(gguf, stored, full_name, config)
    expected = expected_shapes(config)
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        what = "lacks" if wrong[0] in expected else "has, against its own metadata,"
        raise ModelError(f"{gguf.path} {what} the tensor {wrong[0]}; convert or download it again")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ModelError(
                f"{gguf.path}: {name} has the shape {tensors[name].shape} and should have {shape}; "
                f"convert or download it again"
            )
    return {name: tensors[name] for name in expected}


def hf_name(name: str, *, gemma: bool) -> str | None:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``; None when not known."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    part = (_GEMMA_LAYER if gemma else _LAYER).get(match[2]) if match else None
    return f"model.layers.{match[1]}.{part}.{kind}" if match and part else None


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of this config.json has, with its shape, from bottom to top."""
    width, mlp, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    gemma = config["model_type"] == "gemma3_text"
    matrices = {
        "self_attn.q_proj": (q, width),
        "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, q),
        "mlp.gate_proj": (mlp, width),
        "mlp.up_proj": (mlp, width),
        "mlp.down_proj": (width, mlp),
    }
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if gemma else []
    layer: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in matrices.items()}
    layer |= {f"{name}.weight": (width,) for name in norms}
    if gemma or config["model_type"] == "qwen3":
        layer |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    biased = [name for name in matrices if _has_bias(name, config)]
    layer |= {f"{name}.bias": matrices[name][:1] for name in biased}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": (config["vocab_size"], width)}
    return shapes | {"model.norm.weight": (width,)} | head


def _has_bias(name: str, config: dict[str, Any]) -> bool:
    if name.startswith("mlp."):
        return bool(config.get("mlp_bias"))
    if config["model_type"] == "qwen2":
        return name != "self_attn.o_proj"
    return bool(config.get("attention_bias"))


def _tensor(gguf: Gguf, stored: GgufTensor, name: str, config: dict[str, Any]) -> InGguf:
    norm = name.endswith("norm.weight") and config["model_type"] == "gemma3_text"
    if stored.type not in _FLOATS:
        in_blocks = math.prod(stored.shape[1:]) % GGML_QUANT_SIZES[stored.type][0] == 0
        if norm or not in_blocks or not ggml.can_dequantize(stored.type):
            raise ModelError(
                f"{gguf.path}: {stored.name} is stored as {stored.type.name}, which cannot be read here; "
                f"use an F16, Q8_0 or Q4_K_M file of this model"
            )
    dtype = "F32" if norm else _FLOATS.get(stored.type, "F16")
    return InGguf(gguf.path, stored, dtype, row_order(name, stored.shape[0], config), 1.0 if norm else 0.0)


def row_order(name: str, rows: int, config: dict[str, Any]) -> np.ndarray | None:
    """Which stored row comes at each place. llama.cpp turns neighbouring dimensions of a llama's heads
    by position, Hugging Face dimension i with i + dim/2: its converter interleaves both halves
    (``LlamaModel.permute``)."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None or config["model_type"] != "llama":
        return None
    return np.arange(rows).reshape(config[heads], -1, 2).swapaxes(1, 2).reshape(-1)


def interleaved(rows: np.ndarray, head: int) -> np.ndarray:
    """The way back, for rows of whole heads of ``head`` dimensions: i next to i + head/2."""
    return rows.reshape(-1, 2, head // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
