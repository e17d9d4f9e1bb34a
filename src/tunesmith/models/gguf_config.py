"""What a GGUF's metadata says of the model, as Hugging Face's config.json says it.

The keys are those that llama.cpp's ``convert_hf_to_gguf.py`` writes and ``src/models/*.cpp`` read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.models.gguf_file import Gguf

ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
"""GGUF architecture -> (model_type, class). Mistral's GGUFs say llama: there is no difference in shape."""


def hf_config(gguf: Gguf) -> dict[str, Any]:
    """config.json in its classic spelling (``rope_theta``, ``rope_scaling``, ``sliding_window``).

    Raises `ModelError` for another architecture, experts, or positions that config.json cannot say.
    """
    arch = str(gguf.require("general.architecture"))
    if arch not in ARCHITECTURES:
        raise ModelError(
            f"{gguf.path}: models of the architecture {arch!r} are not supported; "
            f"supported are {', '.join(ARCHITECTURES)} (and mistral, which is llama there)"
        )
    if gguf.get("{arch}.expert_count"):
        raise ModelError(f"{gguf.path} is a mixture of experts, which is not supported; use a dense model")
    heads = _uniform(gguf, "{arch}.attention.head_count")
    width = int(gguf.require("{arch}.embedding_length"))
    head_dim = int(gguf.get("{arch}.attention.key_length") or width // heads)
    model_type, class_name = ARCHITECTURES[arch]
    config = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": _embedding_rows(gguf),
        "hidden_size": width,
        "intermediate_size": _uniform(gguf, "{arch}.feed_forward_length"),
        "num_hidden_layers": int(gguf.require("{arch}.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": _uniform(gguf, "{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": int(gguf.require("{arch}.context_length")),
        "rms_norm_eps": short_float(gguf.require("{arch}.attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "hidden_act": "silu",
        **_rope(gguf, head_dim),
    }
    return config | _family_keys(gguf, arch, config)


def short_float(value: float) -> float:
    """The shortest decimal that is this float32: metadata holds 9.999999747378752e-06 for 1e-5."""
    return float(str(np.float32(value)))


def _family_keys(gguf: Gguf, arch: str, config: dict[str, Any]) -> dict[str, Any]:
    if arch == "qwen2":
        return {"use_sliding_window": False}
    if arch in ("llama", "qwen3"):
        keys = {"attention_bias": "blk.0.attn_q.bias" in gguf.tensors}
        return keys | ({"mlp_bias": "blk.0.ffn_gate.bias" in gguf.tensors} if arch == "llama" else {})
    layers = config["num_hidden_layers"]
    pattern = int(gguf.get("{arch}.attention.sliding_window_pattern") or 6)
    # The scale of queries is not in the metadata: llama.cpp knows the 27B model by its 62 layers.
    scalar = config["hidden_size"] // config["num_attention_heads"] if layers == 62 else config["head_dim"]
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": int(gguf.require("{arch}.attention.sliding_window")),
        "sliding_window_pattern": pattern,
        "layer_types": ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)],
        "rope_local_base_freq": short_float(gguf.get("{arch}.rope.freq_base_swa", 10000.0)),
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


def _uniform(gguf: Gguf, key: str, default: int | None = None) -> int:
    value = gguf.require(key) if default is None else gguf.get(key, default)
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise ModelError(f"{gguf.path}: its layers differ in {key.format(arch='shape')}; that is not supported")
    return int(values.pop())


def _embedding_rows(gguf: Gguf) -> int:
    if "token_embd.weight" not in gguf.tensors:
        raise ModelError(f"{gguf.path} holds no token_embd.weight; it is no whole language model")
    return gguf.tensors["token_embd.weight"].shape[0]


def _rope(gguf: Gguf, head_dim: int) -> dict[str, Any]:
    turned = int(gguf.get("{arch}.rope.dimension_count", head_dim))
    if turned != head_dim:
        raise ModelError(f"{gguf.path} turns {turned} of {head_dim} dimensions by position, which is not supported")
    theta = short_float(gguf.get("{arch}.rope.freq_base", 10000.0))
    kind = gguf.get("{arch}.rope.scaling.type") or "linear"
    factor = float(gguf.get("{arch}.rope.scaling.factor") or gguf.get("{arch}.rope.scale_linear") or 1.0)
    if kind not in ("linear", "none"):
        raise ModelError(f"{gguf.path} stretches positions by {kind!r}, which is not supported")
    scaling: dict[str, Any] | None = None
    if kind == "linear" and factor != 1.0:
        scaling = {"rope_type": "linear", "type": "linear", "factor": short_float(factor)}
    if "rope_freqs.weight" in gguf.tensors:
        if scaling:
            raise ModelError(f"{gguf.path} stretches positions in two ways at once, which is not supported")
        factors = gguf.rows(gguf.tensors["rope_freqs.weight"]).reshape(-1).view(np.float32)
        scaling = llama3_scaling(factors, theta, head_dim)
        if scaling is None and not np.allclose(factors, 1.0):
            raise ModelError(
                f"{gguf.path}: its rope_freqs.weight does not follow Llama 3's rule, so its positions "
                f"cannot be put into config.json; use the model's safetensors folder"
            )
    return {"rope_theta": theta, "rope_scaling": scaling}


def llama3_factors(config: dict[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """What Llama 3.1 divides its rotary frequencies by, float64 [head_dim / 2].

    Formula: ``_compute_llama3_parameters`` in transformers' modeling_rope_utils.py.
    """
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = config["low_freq_factor"], config["high_freq_factor"]
    original = config["original_max_position_embeddings"]
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / config["factor"] + smooth)


def llama3_scaling(factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any] | None:
    """The ``rope_scaling`` that gives these factors, or None when there is none.

    Only original/low and original/high matter, so low is taken as 1, as in every Llama 3 model. The
    values of the released models are tried first; else two points on the slope, where 1/factor is
    linear in 1/wavelength, give the other two numbers.
    """
    values = np.asarray(factors, np.float64)
    if values.shape != (head_dim // 2,) or not np.all(np.isfinite(values)) or values.min() <= 0:
        return None
    factor = short_float(values.max())
    if factor <= 1.0:
        return None
    candidates = [(4.0, 8192)]
    slope = (values > 1 + 1e-4) & (values < factor * (1 - 1e-4))
    if slope.sum() >= 2:
        inverse = theta ** (-np.arange(0, head_dim, 2)[slope] / head_dim) / (2 * np.pi)
        smooth = (1 / values[slope] - 1 / factor) / (1 - 1 / factor)
        gradient, offset = np.polyfit(inverse, smooth, 1)
        if offset < 0:
            high = 1 - 1 / offset
            candidates.append((short_float(round(high, 3)), round(gradient * (high - 1))))
    for high, original in candidates:
        config = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
        if high > 1 and np.allclose(llama3_factors(config, theta, head_dim), values, rtol=1e-4):
            return config
    return None
