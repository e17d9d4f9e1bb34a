"""The adapter in PEFT's layout: names, fresh values, and the two files that every engine shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tunesmith.engines.base import LORA_MODULES, LoraShape
from tunesmith.errors import EngineError
from tunesmith.models.architecture import Architecture

PREFIX = "base_model.model.model.layers."
PLACE = {name: "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn" for name in LORA_MODULES}


GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Projections of the same input, which the torch engine multiplies as one matrix."""


def widths(arch: Architecture, module: str) -> tuple[int, int]:
    """(in, out) of one module's weight."""
    q, kv = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    return {
        "q_proj": (arch.width, q),
        "k_proj": (arch.width, kv),
        "v_proj": (arch.width, kv),
        "o_proj": (q, arch.width),
        "gate_proj": (arch.width, arch.mlp_width),
        "up_proj": (arch.width, arch.mlp_width),
        "down_proj": (arch.mlp_width, arch.width),
    }[module]


def trained_layers(arch: Architecture, shape: LoraShape) -> range:
    """The layers that learn: the top ones."""
    count = arch.layers if shape.layers is None else min(shape.layers, arch.layers)
    return range(arch.layers - count, arch.layers)


def elements(arch: Architecture, shape: LoraShape) -> int:
    """How many numbers an adapter has."""
    layer = sum(shape.rank * sum(widths(arch, module)) for module in shape.modules)
    return layer * len(trained_layers(arch, shape))


def key(layer: int, module: str, part: str) -> str:
    """PEFT's name of one array; ``part`` is "A" or "B"."""
    return f"{PREFIX}{layer}.{PLACE[module]}.{module}.lora_{part}.weight"


def fresh(arch: Architecture, shape: LoraShape, seed: int) -> dict[str, np.ndarray]:
    """A new adapter, the same on every engine: A uniform in ±1/sqrt(in) (PEFT's Kaiming
    initialisation with a = sqrt 5), B zero, so that the model starts as the base."""
    rng = np.random.Generator(np.random.PCG64(seed))
    arrays: dict[str, np.ndarray] = {}
    for layer in trained_layers(arch, shape):
        for module in shape.modules:
            width_in, width_out = widths(arch, module)
            bound = 1.0 / np.sqrt(width_in)
            arrays[key(layer, module, "A")] = rng.uniform(-bound, bound, (shape.rank, width_in)).astype(np.float32)
            arrays[key(layer, module, "B")] = np.zeros((width_out, shape.rank), np.float32)
    return arrays


def check_layout(expected: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Raise `EngineError` unless names and shapes are the expected ones."""
    if different := sorted(expected.keys() ^ arrays.keys()):
        raise EngineError(f"these arrays belong to another adapter: {different[0]} is on one side only")
    for name, array in arrays.items():
        if expected[name].shape != array.shape:
            raise EngineError(f"{name} is {array.shape}, this adapter needs {expected[name].shape}")
