"""The adapter alone as mlx-lm loads it: ``mlx_lm.load(BASE, adapter_path=FOLDER)``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunesmith import files
from tunesmith.export.hf_folder import check_replaceable
from tunesmith.export.weights import Weights
from tunesmith.models.safetensors_file import Tensor, write_safetensors

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


def write_mlx_adapter(adapter: Path, base: Path, target: Path) -> None:
    """Write the folder ``target``, whole or not at all, in float32; ``adapter`` is a folder in PEFT's layout.

    mlx-lm keeps A and B turned round, and says the scale itself where PEFT says alpha. Raises `ModelError` for an
    adapter of another base or of a kind that is not supported, `StorageError` when ``target`` cannot be written.
    """
    weights = Weights(base, adapter)
    tensors: list[Tensor] = []
    for name, update in weights.updates.items():
        for letter, values in zip("ab", update.whole(), strict=True):
            turned = np.ascontiguousarray(values.T)
            place = f"{name.removesuffix('.weight')}.lora_{letter}"
            tensors.append(Tensor(place, "F32", turned.shape, lambda turned=turned: turned))
    parts = [name.removesuffix(".weight").split(".", 3) for name in weights.updates]  # model, layers, number, module
    layers = 1 + max(int(name.split(".")[2]) for name in weights.names() if name.startswith("model.layers."))
    [update, *_] = weights.updates.values()
    config = {
        "fine_tune_type": "lora",
        "num_layers": layers - min(int(part[2]) for part in parts),  # counted from the top
        "lora_parameters": {
            "rank": update.rank,
            "scale": update.scale,
            "dropout": 0.0,
            "keys": sorted({part[3] for part in parts}),
        },
    }
    check_replaceable(base, target, {WEIGHTS, CONFIG}.__contains__)
    with files.atomic_folder(target) as folder:
        write_safetensors(folder / WEIGHTS, tensors, metadata={"format": "mlx"})
        files.write_json(folder / CONFIG, config)
