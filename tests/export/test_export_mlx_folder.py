"""The MLX folder that is made without MLX is the one that mlx-lm makes, bit for bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
import mlx.core as mx
import mlx_lm
import reference
import tiny
from tiny_chat import write_chat, write_model

from tunesmith.engines.adapter import fresh
from tunesmith.engines.base import LoraShape
from tunesmith.errors import ModelError
from tunesmith.export.merge import write_merged
from tunesmith.export.mlx_folder import quantize, write_mlx
from tunesmith.export.weights import Weights
from tunesmith.models.architecture import read_architecture
from tunesmith.models.safetensors_file import read_header

IDS = list(range(20, 40))


def trained(folder: Path, base: Path) -> Path:
    shape = LoraShape(rank=4, alpha=8)
    rng = np.random.default_rng(5)
    arrays = fresh(read_architecture(base), shape, 3)
    arrays = {k: rng.normal(0, 0.1, a.shape).astype(np.float32) if "lora_B" in k else a for k, a in arrays.items()}
    return reference.write_adapter(folder, base, shape, arrays)


def in_halves(base: Path) -> Path:
    """The same model with its weights in float16, said in config.json."""
    tensors = {name: t.astype(np.float16) for name, t in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    return base


def converted(merged: Path, target: Path, bits: int, group: int) -> Path:
    """What mlx-lm's own converter makes of the merged folder."""
    mlx_lm.convert(str(merged), str(target), quantize=True, q_bits=bits, q_group_size=group)
    return target


def tensors(folder: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        read: Any = mx.load(str(file))
        arrays |= read
    return arrays


def logits(folder: Path) -> np.ndarray:
    model: Any = mlx_lm.load(str(folder))[0]
    return np.array(model(mx.array([IDS]))[0].astype(mx.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_quantize_is_that_of_mlx(bits: int, group: int, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 512)) * rng.choice([1e-9, 1e-4, 0.03, 1, 50], (200, 1))
    values[:6] = [np.zeros(512), np.abs(values[1]), -np.abs(values[2]), *np.outer([1.5, -2], np.ones(512)), values[5]]
    values[6, :300] = 0
    values[7] = rng.integers(-3, 4, 512)
    array = mx.array(values.astype(np.float32)).astype(dtype)
    codes, scales, biases = quantize(np.array(array.astype(mx.float32)), bits, group)
    expected = mx.quantize(array, group_size=group, bits=bits)
    np.testing.assert_array_equal(codes, np.array(expected[0]))
    for own, theirs in zip((scales, biases), expected[1:], strict=True):
        assert mx.array_equal(mx.array(own).astype(dtype), theirs)


@pytest.mark.parametrize(("bits", "group", "halves"), [(4, 64, True), (4, 32, False), (8, 64, False)])
def test_the_folder_is_that_of_mlx_lm(bits: int, group: int, halves: bool, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", width=64)
    base = in_halves(base) if halves else base
    weights = Weights(base, trained(tmp_path / "adapter", base))
    write_mlx(weights, base, tmp_path / "own", bits=bits, group=group)
    write_merged(weights, base, tmp_path / "merged", dtype="source")
    theirs = converted(tmp_path / "merged", tmp_path / "theirs", bits, group)
    a, b = tensors(tmp_path / "own"), tensors(theirs)
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and mx.array_equal(a[name], b[name]) for name in a)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "own", theirs)]
    assert configs[0] == configs[1]
    assert configs[0]["quantization"] == {"group_size": group, "bits": bits, "mode": "affine"}
    np.testing.assert_array_equal(logits(tmp_path / "own"), logits(theirs))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3"])
def test_matrices_whose_columns_are_no_multiple_of_the_group_stay_as_they_are(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"  # 48 and 80 columns; 64 where heads are joined
    write_chat(base)
    for file in tiny.tiny(family).glob("*"):
        (base / file.name).write_bytes(file.read_bytes())
    if family == "gemma3":  # mlx-lm reads the pattern and not the list of layers
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"sliding_window_pattern": 2}))
    weights = Weights(base, trained(tmp_path / "adapter", base))
    write_mlx(weights, base, tmp_path / "own")
    write_merged(weights, base, tmp_path / "merged")
    theirs = converted(tmp_path / "merged", tmp_path / "theirs", 4, 64)
    a, b = tensors(tmp_path / "own"), tensors(theirs)
    assert a.keys() == b.keys()
    assert all(mx.array_equal(a[name], b[name]) for name in a)
    quantized = {name.split(".")[-2] for name in a if name.endswith(".scales")}
    assert quantized == (set() if family == "qwen2" else {"o_proj"})
    np.testing.assert_array_equal(logits(tmp_path / "own"), logits(theirs))


def test_shards_load_like_one_file_and_progress_reaches_the_end(tmp_path: Path) -> None:
    base = in_halves(write_model(tmp_path / "base", width=64))
    weights = Weights(base, trained(tmp_path / "adapter", base))
    seen: list[float] = []
    write_mlx(weights, base, tmp_path / "one")
    write_mlx(weights, base, tmp_path / "many", shard_bytes=9_000, on_progress=seen.append)
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert index["weight_map"] == {name: f.name for f in files for name in sorted(read_header(f))}
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    np.testing.assert_array_equal(logits(tmp_path / "many"), logits(tmp_path / "one"))


def test_other_widths_than_mlx_can_read_are_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    for bits, group in ((3, 64), (4, 48), (16, 64)):
        with pytest.raises(ModelError, match="MLX folders are made with bits of"):
            write_mlx(Weights(base), base, tmp_path / "out", bits=bits, group=group)
    assert not (tmp_path / "out").exists()
