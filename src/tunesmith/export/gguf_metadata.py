"""What a GGUF says of a model's shape, from config.json: the way out of `models.gguf_config`.

Keys and values are those that llama.cpp's converter writes; a shape that llama.cpp would run otherwise
than it was trained (another pattern of windows, another scale of queries) is refused.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tunesmith.errors import ModelError
from tunesmith.export.hf_folder import decoder_config
from tunesmith.models.architecture import FAMILIES, Architecture, Rope, parse_architecture
from tunesmith.models.gguf_config import llama3_factors

Value = str | bool | int | float | list[str] | np.ndarray
"""A metadata value: ints are uint32, floats float32, arrays int32 or float32."""

_ARCH = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi3",
}
"""Family -> general.architecture."""
_QUERY_FROM_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models: llama.cpp takes their scale of queries from the width, all others' from the
heads, and reads neither from the file."""


@dataclass(frozen=True)
class Form:
    """How a model stands in a GGUF.

    metadata: ``general.architecture`` and the keys of that architecture
    factors: tensors that are in no safetensors file, by GGUF name: what stretches the positions
    """

    arch: str
    shape: Architecture
    metadata: dict[str, Value]
    factors: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def permuted(self) -> bool:
        """Rows of q and k are interleaved: llama.cpp turns neighbouring dimensions of a llama's heads."""
        return self.arch == "llama"

    def tensor_name(self, name: str) -> str | None:
        """``model.norm.weight`` -> ``output_norm.weight``; None for what has no place in this architecture."""
        return self._names.get_name(name, try_suffixes=(".weight", ".bias"))

    @cached_property
    def _names(self) -> gguf.TensorNameMap:
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(kinds[self.arch], self.shape.layers)


def read_form(base: Path) -> Form:
    """The form of the model in ``base``.

    Raises `ModelError` for a family that is not supported, or a shape that llama.cpp cannot run.
    """
    path, config = base / "config.json", decoder_config(base)
    family = str(config.get("model_type"))
    if family not in ("gemma2", "phi3"):
        if family not in (*FAMILIES, "gemma3_text"):
            raise ModelError(
                f"{path}: models of the family {family!r} cannot be written as GGUF here; those of {', '.join(_ARCH)} "
                "can; use the merged folder (--to merged)"
            )
        return _form(parse_architecture(config, str(path)), {}, {}, str(path))
    try:
        shape, more, factors = (_gemma2 if family == "gemma2" else _phi3)(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {error} is missing or wrong; download the model again") from None
    return _form(shape, more, factors, str(path))


def _form(shape: Architecture, more: dict[str, Value], factors: dict[str, np.ndarray], where: str) -> Form:
    arch = _ARCH[shape.family]
    _check(shape, where)
    keys: dict[str, Value] = {
        "block_count": shape.layers,
        "context_length": _context(shape),
        "embedding_length": shape.width,
        "feed_forward_length": shape.mlp_width,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.norm_eps,
        "rope.freq_base": shape.rope.theta,
    }
    if arch == "llama":
        keys |= {"vocab_size": shape.vocabulary, "rope.dimension_count": shape.head_dim}
    if shape.rope.kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": shape.rope.factor}
    if shape.rope.kind == "llama3":
        factors = {**factors, "rope_freqs.weight": _llama3(shape)}
    if arch in ("gemma2", "gemma3"):
        keys |= _windows(shape, where)
    keys |= more
    metadata: dict[str, Value] = {"general.architecture": arch}
    return Form(arch, shape, metadata | {f"{arch}.{key}": value for key, value in keys.items()}, factors)


def _check(shape: Architecture, where: str) -> None:
    """Refuse what llama.cpp would silently run otherwise."""
    gemma = shape.family.startswith("gemma")
    odd = None
    if shape.rope.kind == "llama3" and _ARCH[shape.family] != "llama":
        odd = "positions stretched as in Llama 3"
    elif shape.activation != ("gelu_pytorch_tanh" if gemma else "silu"):
        odd = f"the activation {shape.activation}"
    elif shape.o_bias and _ARCH[shape.family] != "llama":
        odd = "biases in its attention"
    elif gemma and not math.isclose(shape.query_scale, _assumed_scale(shape)):
        odd = "a query_pre_attn_scalar that is not its head size"
    if odd:
        raise ModelError(
            f"{where}: it has {odd}, which llama.cpp does not run for {shape.family}; use the merged folder "
            "(--to merged)"
        )


def _assumed_scale(shape: Architecture) -> float:
    large = shape.layers == _QUERY_FROM_WIDTH[shape.family]
    return (shape.width // shape.heads if large else shape.head_dim) ** -0.5


def _context(shape: Architecture) -> int:
    """llama.cpp has no windows outside Gemma: there the file is exact up to the smallest window."""
    windows = [w for w in shape.windows if w is not None]
    return shape.context if shape.family.startswith("gemma") else min([shape.context, *windows])


def _llama3(shape: Architecture) -> np.ndarray:
    rope = shape.rope
    config = {
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_length,
    }
    return llama3_factors(config, rope.theta, shape.head_dim).astype(np.float32)


def _windows(shape: Architecture, where: str) -> dict[str, Value]:
    """Gemma attends to everything on every p-th layer; p is 2 for gemma2, and 6 by default for gemma3."""
    full = [i + 1 for i, window in enumerate(shape.windows) if window is None]
    pattern = full[0] if full else shape.layers + 1
    sizes = {window for window in shape.windows if window is not None}
    expected = [i for i in range(1, shape.layers + 1) if i % pattern == 0]
    if len(sizes) != 1 or full != expected or (shape.family == "gemma2" and pattern != 2):
        raise ModelError(
            f"{where}: its layer_types follow a pattern that llama.cpp does not run; use the merged folder "
            "(--to merged)"
        )
    keys: dict[str, Value] = {"attention.sliding_window": sizes.pop()}
    if shape.local_rope:
        keys["rope.freq_base_swa"] = shape.local_rope.theta
    if shape.family == "gemma3" and pattern != 6:
        keys["attention.sliding_window_pattern"] = pattern
    return keys


def _gemma2(c: dict[str, Any]) -> tuple[Architecture, dict[str, Value], dict[str, np.ndarray]]:
    layers, window = int(c["num_hidden_layers"]), int(c.get("sliding_window") or 4096)
    kinds = c.get("layer_types") or ["sliding_attention", "full_attention"] * layers
    shape = dataclasses.replace(
        _common(c, "gemma2"),
        tied=True,
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers]),
        sandwich_norms=True,
        norm_offset=1.0,
        activation=str(c.get("hidden_activation") or "gelu_pytorch_tanh"),
        query_scale=float(c["query_pre_attn_scalar"]) ** -0.5,
    )
    return shape, {
        "attn_logit_softcapping": float(c.get("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": float(c.get("final_logit_softcapping", 30.0)),
    }, {}  # fmt: skip


def _phi3(c: dict[str, Any]) -> tuple[Architecture, dict[str, Value], dict[str, np.ndarray]]:
    """q, k, v are one tensor here, gate and up too; positions may be stretched by two lists of factors."""
    shape = _common(c, "phi3")
    window, rope = c.get("sliding_window"), _rope_of(c)
    shape = dataclasses.replace(
        shape,
        tied=bool(c.get("tie_word_embeddings")),
        windows=(int(window) if window else None,) * shape.layers,
        activation=str(c.get("hidden_act") or "silu"),
    )
    original = int(rope.get("original_max_position_embeddings") or c.get("original_max_position_embeddings") or 4096)
    turned = int(shape.head_dim * float(rope.get("partial_rotary_factor") or c.get("partial_rotary_factor") or 1.0))
    more: dict[str, Value] = {
        "rope.dimension_count": turned,
        "rope.scaling.original_context_length": original,
        # Written as 0 where there is none: so llama.cpp tells Phi-4 from Phi-3.
        "attention.sliding_window": int(window or 0),
    }
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return shape, more, {}
    if kind not in ("su", "longrope"):
        raise ValueError(f"rope_type {kind!r}")
    scale = shape.context / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    more["rope.scaling.attn_factor"] = float(rope.get("attention_factor") or factor)
    factors = {
        f"rope_factors_{length}.weight": np.asarray(rope[f"{length}_factor"], np.float32)
        for length in ("long", "short")
    }
    if any(len(values) != turned // 2 for values in factors.values()):
        raise ValueError("the number of long_factor or short_factor")
    return shape, more, factors


def _common(c: dict[str, Any], family: str) -> Architecture:
    """What is spelled alike in every config.json."""
    heads, width = int(c["num_attention_heads"]), int(c["hidden_size"])
    return Architecture(
        family=family,
        layers=int(c["num_hidden_layers"]),
        width=width,
        mlp_width=int(c["intermediate_size"]),
        heads=heads,
        kv_heads=int(c.get("num_key_value_heads") or heads),
        head_dim=int(c.get("head_dim") or width // heads),
        vocabulary=int(c["vocab_size"]),
        norm_eps=float(c.get("rms_norm_eps", 1e-6)),
        tied=False,
        context=int(c["max_position_embeddings"]),
        rope=Rope(theta=float(_rope_of(c).get("rope_theta") or 10000.0)),
    )


def _rope_of(c: dict[str, Any]) -> dict[str, Any]:
    """Both spellings: ``rope_theta`` with ``rope_scaling``, and transformers 5's ``rope_parameters``."""
    old = {"rope_theta": c.get("rope_theta"), **(c.get("rope_scaling") or {})}
    return {**old, **(c.get("rope_parameters") or {})}
