"""What a decoder is made of, read once from ``config.json`` and handed to the engines.

The families differ in few places: a bias on q, k, v (Qwen2), norms on q and k (Qwen3, Gemma3),
four norms a layer and weights stored as w-1 (Gemma3), windows on some layers (Mistral, Gemma3).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")


@dataclass(frozen=True)
class Rope:
    """Rotary positions: base frequency, and how it is stretched (``kind``: default, linear, llama3)."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclass(frozen=True)
class Architecture:
    """The shape of a dense, llama-like decoder. Widths are in elements."""

    family: str
    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    norm_eps: float
    tied: bool
    context: int
    rope: Rope
    local_rope: Rope | None = None
    """Gemma3 turns its windowed layers by another base."""
    windows: tuple[int | None, ...] = ()
    """Per layer: attend to that many tokens back; None means to all."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    """A norm after attention and MLP too, before their result is added."""
    norm_offset: float = 0.0
    """Gemma stores norm weights as w - 1."""
    embedding_scale: float = 1.0
    activation: str = "silu"
    query_scale: float = 0.0

    def rope_of(self, layer: int) -> Rope:
        """The rotary positions of one layer."""
        return self.local_rope if self.local_rope and self.windows[layer] is not None else self.rope

    @property
    def parameters(self) -> int:
        """Weights of the base model, norms and biases left out."""
        return self.layers * self.layer_parameters + self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer, in the same way."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.width * self.mlp_width


def read_architecture(folder: Path) -> Architecture:
    """The architecture that ``folder/config.json`` describes.

    Raises `ModelError` for a family that is not among `FAMILIES`, or a key that is missing.
    """
    return parse_architecture(read_model_config(folder), str(folder / "config.json"))


def read_model_config(folder: Path) -> dict[str, Any]:
    """What ``folder/config.json`` holds. Raises `ModelError` when it is missing or damaged."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is no model folder: it has no config.json") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from None


def parse_architecture(config: dict[str, Any], where: str) -> Architecture:
    """`read_architecture` on the parsed file; ``where`` is named in errors."""
    if isinstance(config.get("text_config"), dict):  # a model that also sees images: its language part
        config = {
            **config["text_config"],
            "model_type": config["text_config"].get("model_type", config.get("model_type")),
        }
    family = {"gemma3_text": "gemma3"}.get(str(config.get("model_type")), str(config.get("model_type")))
    if family not in FAMILIES:
        raise ModelError(
            f"{where}: models of the family {family!r} are not supported; supported are {', '.join(FAMILIES)}"
        )
    try:
        return _parse(config, family)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: {error} is missing or wrong; download the model again") from None


def _parse(c: dict[str, Any], family: str) -> Architecture:
    gemma = family == "gemma3"
    heads = int(c["num_attention_heads"])
    head_dim = int(c.get("head_dim") or c["hidden_size"] // heads)
    activation = str(c.get("hidden_activation") or c.get("hidden_act") or "silu")
    if activation not in ("silu", "gelu_pytorch_tanh"):
        raise ValueError(f"hidden_act {activation!r}")
    rope, local = _ropes(c, gemma)
    biased = family in ("llama", "qwen3", "gemma3") and bool(c.get("attention_bias"))
    return Architecture(
        family=family,
        layers=int(c["num_hidden_layers"]),
        width=int(c["hidden_size"]),
        mlp_width=int(c["intermediate_size"]),
        heads=heads,
        kv_heads=int(c.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        vocabulary=int(c["vocab_size"]),
        norm_eps=float(c.get("rms_norm_eps", 1e-6)),
        tied=bool(c.get("tie_word_embeddings", gemma)),
        context=int(c.get("max_position_embeddings", 2048)),
        rope=rope,
        local_rope=local,
        windows=_windows(c, family),
        qkv_bias=family == "qwen2" or biased,
        o_bias=biased,
        mlp_bias=family == "llama" and bool(c.get("mlp_bias")),
        qk_norm=family == "qwen3" or gemma,
        sandwich_norms=gemma,
        norm_offset=1.0 if gemma else 0.0,
        embedding_scale=float(c["hidden_size"]) ** 0.5 if gemma else 1.0,
        activation=activation,
        query_scale=float(c.get("query_pre_attn_scalar", head_dim) if gemma else head_dim) ** -0.5,
    )


def _ropes(c: dict[str, Any], gemma: bool) -> tuple[Rope, Rope | None]:
    """Both spellings: ``rope_theta`` with ``rope_scaling``, and transformers 5's ``rope_parameters``."""
    new = c.get("rope_parameters") or {}
    if "full_attention" in new:
        return _rope(new["full_attention"], 1e6), _rope(new["sliding_attention"], 1e4)
    old = {"rope_theta": c.get("rope_theta", 1e6 if gemma else 1e4), **(c.get("rope_scaling") or {})}
    rope = _rope(new or old, 1e4)
    return rope, Rope(float(c.get("rope_local_base_freq", 1e4))) if gemma else None


def _rope(p: dict[str, Any], theta: float) -> Rope:
    kind = str(p.get("rope_type") or p.get("type") or "default")
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rope_type {kind!r}")
    return Rope(
        theta=float(p.get("rope_theta", theta)),
        kind=kind,
        factor=float(p.get("factor", 1.0)),
        low_freq_factor=float(p.get("low_freq_factor", 1.0)),
        high_freq_factor=float(p.get("high_freq_factor", 4.0)),
        original_length=int(p.get("original_max_position_embeddings", 8192)),
    )


def _windows(c: dict[str, Any], family: str) -> tuple[int | None, ...]:
    layers, window = int(c["num_hidden_layers"]), c.get("sliding_window")
    if family in ("qwen2", "qwen3") and not c.get("use_sliding_window"):
        window = None
    if not window or family == "llama":
        return (None,) * layers
    if kinds := c.get("layer_types"):
        return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
    if family == "gemma3":
        pattern = int(c.get("sliding_window_pattern") or 6)
        return tuple(None if (i + 1) % pattern == 0 else int(window) for i in range(layers))
    first = int(c.get("max_window_layers", 0)) if family in ("qwen2", "qwen3") else 0
    return tuple(int(window) if i >= first else None for i in range(layers))
