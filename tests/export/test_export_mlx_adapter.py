"""The adapter that is written without MLX is the one that mlx-lm loads, with the logits of the merged model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
import mlx.core as mx
import mlx_lm
import reference
import tiny
from tiny_chat import write_chat

from tunesmith.engines.adapter import fresh
from tunesmith.engines.base import LoraShape
from tunesmith.errors import StorageError
from tunesmith.export.merge import write_merged
from tunesmith.export.mlx_adapter import write_mlx_adapter
from tunesmith.export.weights import Weights
from tunesmith.models.architecture import read_architecture

IDS = list(range(20, 40))


def base_of(family: str, folder: Path) -> Path:
    write_chat(folder)
    for file in tiny.tiny(family).glob("*"):
        (folder / file.name).write_bytes(file.read_bytes())
    if family == "gemma3":  # mlx-lm reads the pattern and not the list of layers
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"sliding_window_pattern": 2}))
    return folder


def trained(folder: Path, base: Path, shape: LoraShape) -> Path:
    rng = np.random.default_rng(5)
    arrays = fresh(read_architecture(base), shape, 3)
    arrays = {k: rng.normal(0, 0.1, a.shape).astype(np.float32) if "lora_B" in k else a for k, a in arrays.items()}
    return reference.write_adapter(folder, base, shape, arrays)


def logits(folder: Path, **options: Any) -> np.ndarray:
    model: Any = mlx_lm.load(str(folder), **options)[0]
    return np.array(model(mx.array([IDS]))[0])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("shape", [LoraShape(4, 8.0), LoraShape(4, 2.0, layers=2, modules=("q_proj", "down_proj"))])
def test_mlx_lm_with_the_adapter_gives_the_logits_of_the_merged_model(
    family: str, shape: LoraShape, tmp_path: Path
) -> None:
    base = base_of(family, tmp_path / "base")
    adapter = trained(tmp_path / "adapter", base, shape)
    write_mlx_adapter(adapter, base, tmp_path / "mlx")
    write_merged(Weights(base, adapter), base, tmp_path / "merged")  # whose weights are peft's: test_export_merge.py
    found = logits(base, adapter_path=str(tmp_path / "mlx"))
    np.testing.assert_allclose(found, logits(tmp_path / "merged"), atol=2e-4)
    assert np.abs(found - logits(base)).max() > 0.1


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    base = base_of("llama", tmp_path / "base")
    adapter = trained(tmp_path / "adapter", base, LoraShape(4, 8.0))
    with pytest.raises(StorageError, match=r"holds adapter_model\.safetensors"):
        write_mlx_adapter(adapter, base, adapter)
    write_mlx_adapter(adapter, base, tmp_path / "mlx")
    write_mlx_adapter(adapter, base, tmp_path / "mlx")  # an earlier export is
