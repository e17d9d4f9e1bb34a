"""The adapter alone as a GGUF LoRA, which llama.cpp lays over the base it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import ModelError
from tunesmith.export.gguf_metadata import Value, read_form
from tunesmith.export.gguf_write import Planned, heads_of, tensor_place, write_container
from tunesmith.export.weights import Weights
from tunesmith.models.gguf_tensors import interleaved


def write_gguf_lora(
    adapter: Path,
    base: Path,
    target: Path,
    *,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write ``target``, whole or not at all, in float32; ``adapter`` is a folder in PEFT's layout.

    llama.cpp adds (adapter.lora.alpha / rank) B A to each weight; with another number than 1 for its
    scale, that much of it. Raises `ModelError` for an adapter of another base or of a kind that is not
    supported, or an architecture that is not; `StorageError` when the disk is full.
    """
    form = read_form(base)
    updates = Weights(base, adapter).updates
    alphas = {update.scale * update.rank for update in updates.values()}
    if len(alphas) != 1:
        raise ModelError(f"{adapter}: its layers differ in alpha, which a GGUF LoRA cannot say; export it merged")
    tensors: list[Planned] = []
    for name, update in updates.items():
        stored = form.tensor_name(name)
        if stored is None:
            raise ModelError(f"{adapter} changes {name}, which has no place in a GGUF of {form.arch}; export it merged")
        a, b = update.whole()
        if heads := heads_of(name, form):
            b = interleaved(b, len(b) // heads)
        tensors += [_whole(f"{stored}.lora_a", a), _whole(f"{stored}.lora_b", b)]
    metadata: dict[str, Value] = {
        "general.architecture": form.arch,
        "general.type": "adapter",
        "general.name": adapter.name,
        "general.file_type": 0,
        "adapter.type": "lora",
        "adapter.lora.alpha": alphas.pop(),
        **(provenance or {}),
    }
    write_container(target, metadata, sorted(tensors, key=lambda t: tensor_place(t.name)))


def _whole(name: str, values: np.ndarray) -> Planned:
    return Planned(name, values.shape, Kind.F32, len(values), lambda start, stop: values[start:stop])
