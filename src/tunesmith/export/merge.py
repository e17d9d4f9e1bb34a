"""The merged model as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from tunesmith.export.hf_folder import OnProgress, decoder_config, export_folder, write_shards
from tunesmith.export.weights import Weights, computed_ahead, spans
from tunesmith.files import write_json
from tunesmith.models.ggml import TORCH_NAMES, narrow
from tunesmith.models.safetensors_file import Tensor

SHARD_BYTES = 4_000_000_000


def write_merged(
    weights: Weights,
    base: Path,
    target: Path,
    *,
    dtype: Literal["bf16", "fp16", "source"] = "source",
    on_progress: OnProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the merged model as a Hugging Face folder, whole or not at all.

    ``on_progress`` is called with the fraction of weights written. Raises `ModelError` when a weight
    does not fit into ``dtype``, `StorageError` when ``target`` cannot be written or is not ours to replace.
    """
    forced = {"bf16": "BF16", "fp16": "F16", "source": None}[dtype]
    tensors = [_tensor(weights, name, forced or weights.dtype(name)) for name in weights.names()]
    config = decoder_config(base)
    config.pop("dtype", None)
    config["torch_dtype"] = TORCH_NAMES[forced or weights.main_dtype()]
    with export_folder(base, target) as folder:
        write_shards(folder, tensors, shard_bytes, {"format": "pt"}, on_progress)
        write_json(folder / "config.json", config)


def _tensor(weights: Weights, name: str, dtype: str) -> Tensor:
    def piece(span: tuple[int, int]) -> np.ndarray:
        if dtype == weights.dtype(name) and not weights.is_changed(name):
            return weights.stored(name, *span)
        return narrow(weights.rows(name, *span), dtype, name)

    shape = weights.shape(name)
    return Tensor(name, dtype, shape, lambda: computed_ahead(piece, spans(shape)))
