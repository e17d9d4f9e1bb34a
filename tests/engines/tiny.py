"""Tiny random models of every family, as Hugging Face folders, and rows to train them on.

The weights are drawn wide enough that logits differ by whole units: agreement to 1e-4 then says something.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.engines.base import Batch

FAMILIES = ("llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma3")
VOCABULARY = 160
_HOME = tempfile.TemporaryDirectory(prefix="tunesmith-tiny-")

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


@functools.cache
def tiny(family: str) -> Path:
    """The folder of one family, made once per session. Windows are 6 tokens, so that rows cross them."""
    import torch

    folder = Path(_HOME.name) / family
    torch.manual_seed(7)
    model = _model(family)
    with torch.no_grad():  # as they are made, norms are all equal and biases zero: mistakes would not show
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def _model(family: str) -> Any:
    import transformers as t

    if family in ("llama", "llama3-rope"):
        rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
        more = {"rope_parameters": rope, "tie_word_embeddings": True} if family == "llama3-rope" else {}
        return t.LlamaForCausalLM(t.LlamaConfig(**_COMMON, **more))
    if family == "mistral":
        return t.MistralForCausalLM(t.MistralConfig(**_COMMON, sliding_window=6, head_dim=16))
    if family == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**_COMMON, tie_word_embeddings=True))
    if family == "qwen3":
        return t.Qwen3ForCausalLM(t.Qwen3Config(**_COMMON, head_dim=16))
    more: dict[str, Any] = {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16}
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    return t.Gemma3ForCausalLM(t.Gemma3TextConfig(**_COMMON, **more, layer_types=kinds))


def rows(count: int, seed: int, longest: int = 24) -> list[tuple[list[int], list[bool]]]:
    """Rows of 4 to ``longest`` tokens, of which a random tail is learned."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        length = int(rng.integers(4, longest + 1))
        start = int(rng.integers(1, length))
        ids = rng.integers(3, VOCABULARY, length).tolist()
        result.append((ids, [i >= start for i in range(length)]))
    return result


def steps(count: int) -> list[list[Batch]]:
    """``count`` optimizer steps of two micro-batches of two rows; 8 rows come again and again."""
    pool = rows(8, seed=1)
    return [[Batch.of([pool[(4 * i + 2 * j + k) % 8] for k in range(2)]) for j in range(2)] for i in range(count)]
