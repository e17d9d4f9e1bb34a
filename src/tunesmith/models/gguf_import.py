"""From a GGUF file to a Hugging Face folder that can be trained, without torch or transformers.

Quantized tensors become 16-bit floats; F16, BF16 and F32 keep their bytes. What llama.cpp's
converter did to the weights is undone: rows of q and k are put back in order (llama only), norms of
Gemma lose the 1 that was added.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import ModelError
from tunesmith.files import storage_errors, sync_folder, write_text
from tunesmith.models.gguf_config import hf_config
from tunesmith.models.gguf_file import Gguf, GgufTensor, read_gguf
from tunesmith.models.gguf_tokenizer import check_tokenizer, tokenizer_files
from tunesmith.models.safetensors_file import Tensor, write_safetensors

UNFINISHED = ".unfinished-"
"""Prefix of folders that are being built; whatever is found under it may be removed."""
CHUNK_ITEMS = 1 << 22
"""Weights that are de-quantized at once: 16 MB of float32."""

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


def import_gguf(source: Path, target: Path, progress: Callable[[float], None] | None = None) -> None:
    """Write the model in ``source`` as a new folder ``target``, whole or not at all.

    Memory stays bounded: a few MB of weights at a time, and the vocabulary. ``progress`` is called
    with the fraction of weights written. Raises `ModelError` when the file cannot be imported
    exactly, or ``target`` exists; `StorageError` when the disk cannot take it.
    """
    gguf = read_gguf(source)
    config = hf_config(gguf)
    tensors = hf_tensors(gguf, config)
    files = tokenizer_files(gguf)
    ids = files["generation_config.json"]
    files["config.json"] = config | ids | {"torch_dtype": _main_dtype(tensors)}
    texts = {name: json.dumps(content, indent=2, ensure_ascii=False) for name, content in files.items()}
    texts["tokenizer.json"] = check_tokenizer(gguf, files["tokenizer.json"])
    if target.exists():
        raise ModelError(f"{target} exists already; remove it or choose another name")
    building = target.with_name(f"{UNFINISHED}{target.name}-{secrets.token_hex(4)}")
    try:
        with storage_errors(target):
            building.mkdir(parents=True)
            write_safetensors(building / "model.safetensors", tensors, progress=progress)
            for name, text in texts.items():
                write_text(building / name, text)
            building.rename(target)
            sync_folder(target.parent)
    except OSError as error:  # another process was first, and the target is there
        raise ModelError(f"{target} could not be put in place ({error.strerror}); start again") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def hf_tensors(gguf: Gguf, config: dict[str, Any]) -> list[Tensor]:
    """The tensors under their Hugging Face names; de-quantized when they are asked for.

    Raises `ModelError` for a tensor that is missing, is not known, or has another shape than
    ``config`` says.
    """
    tensors: dict[str, Tensor] = {}
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
    return [tensors[name] for name in expected]


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


def _tensor(gguf: Gguf, stored: GgufTensor, name: str, config: dict[str, Any]) -> Tensor:
    norm = name.endswith("norm.weight") and config["model_type"] == "gemma3_text"
    dtype = "F32" if norm else _FLOATS.get(stored.type, "F16")

    def data() -> Iterator[np.ndarray]:
        rows, order = gguf.rows(stored), row_order(name, stored.shape[0], config)
        step = max(1, CHUNK_ITEMS // max(1, int(np.prod(stored.shape)) // len(rows)))
        for start in range(0, len(rows), step):
            stop = min(start + step, len(rows))
            raw = rows[start:stop] if order is None else rows[order[start:stop]]
            if norm:
                yield _floats(gguf, stored, raw) - np.float32(1.0)
            elif stored.type in _FLOATS:
                yield raw
            else:
                yield _halves(gguf, stored, raw)

    return Tensor(name, dtype, stored.shape, data)


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


def _floats(gguf: Gguf, stored: GgufTensor, raw: np.ndarray) -> np.ndarray:
    try:
        return quants.dequantize(raw, stored.type)
    except NotImplementedError:
        raise ModelError(
            f"{gguf.path}: {stored.name} is stored as {stored.type.name}, which cannot be read here; "
            f"use an F16, Q8_0 or Q4_K_M file of this model"
        ) from None


def _halves(gguf: Gguf, stored: GgufTensor, raw: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        halves = _floats(gguf, stored, raw).astype(np.float16)
    if not np.isfinite(halves).all():
        raise ModelError(f"{gguf.path}: {stored.name} holds numbers that are no 16-bit floats; download it again")
    return halves


def _main_dtype(tensors: list[Tensor]) -> str:
    """The dtype most weights have, in torch's spelling."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + int(np.prod(tensor.shape))
    return {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[max(sizes, key=lambda d: sizes[d])]
