"""Engines read an imported GGUF from its blocks, and get the weights that a copy in safetensors holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from models_tiny import byte_level_vocabulary, tiny_model, with_safetensors, write_gguf

from tunesmith.engines.base import LoraShape
from tunesmith.engines.mlx_engine import MlxEngine
from tunesmith.engines.torch_engine import TorchEngine
from tunesmith.errors import ModelError
from tunesmith.models import gguf_tensors
from tunesmith.models.architecture import read_architecture
from tunesmith.models.gguf_import import LINK, import_gguf

IDS = [5, 6, 7, 300, 12]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The imported folder, and one whose weights are the same in a safetensors file."""
    home = tmp_path_factory.mktemp(request.param)
    vocabulary = byte_level_vocabulary("smollm")
    model = tiny_model(request.param, len(vocabulary["tokens"]), tie_word_embeddings=True)
    kind = gguf.GGMLQuantizationType.Q4_1
    path = write_gguf(home / "tiny.gguf", request.param, model, vocabulary, quantize=kind)
    for name in ("blocks", "copy"):
        import_gguf(path, home / name)
    with_safetensors(home / "copy")
    (home / "copy" / LINK).unlink()
    return home / "blocks", home / "copy"


@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("above", [0, 1])
def test_blocks_and_a_copy_of_the_weights_are_the_same_model(
    kind: Any, dtype: str, above: int, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_tensors, "CHUNK_ITEMS", 1500)  # so that tensors come in several chunks
    monkeypatch.setattr(gguf_tensors, "PIECE_ITEMS", 400)
    blocks, copy = (kind(folder, read_architecture(folder), dtype, above) for folder in folders)
    np.testing.assert_array_equal(blocks.logits(IDS, adapter=False), copy.logits(IDS, adapter=False))
    for engine in (blocks, copy):
        engine.add_adapter(LoraShape(rank=2, layers=1), 0)
    rows = [np.array(IDS), np.arange(40, 70)]
    for a, b in zip(blocks.prefix(rows), copy.prefix(rows), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])
def test_layers_below_are_read_when_they_are_needed_and_only_then(
    kind: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    chunks = gguf_tensors.InGguf.chunks

    def noted(stored: gguf_tensors.InGguf) -> Any:
        read.append(stored.name)
        return chunks(stored)

    monkeypatch.setattr(gguf_tensors.InGguf, "chunks", noted)
    arch = read_architecture(folders[0])
    engine = kind(folders[0], arch, "fp32", arch.layers - 1)
    assert not any(name.startswith("blk.0.") for name in read)
    engine.add_adapter(LoraShape(rank=2, layers=1), 0)
    for _ in range(2):
        read.clear()
        engine.prefix([np.array(IDS)])
        assert sorted(read) == sorted(set(read))
        assert {name.split(".")[1] for name in read} == {str(i) for i in range(arch.layers - 1)}


@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])
def test_a_gguf_that_goes_away_under_an_engine_is_an_error_in_one_sentence(
    kind: Any, folders: tuple[Path, Path]
) -> None:
    arch = read_architecture(folders[0])
    engine = kind(folders[0], arch, "fp32", 1)
    source = (folders[0] / LINK).resolve()
    source.rename(source.with_suffix(".moved"))
    try:
        with pytest.raises(ModelError, match=r"tiny\.gguf was moved or deleted"):
            engine.logits(IDS, adapter=False)
        with pytest.raises(ModelError, match=r"tiny\.gguf was moved or deleted"):
            kind(folders[0], arch, "fp32")
    finally:
        source.with_suffix(".moved").rename(source)
    assert engine.logits(IDS, adapter=False).shape == (len(IDS), arch.vocabulary)
