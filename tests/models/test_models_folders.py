"""Model folders: which file holds which tensor, and what is refused before it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import ModelError
from tunesmith.models.safetensors_file import Tensor, write_safetensors
from tunesmith.models.safety import refuse_unsafe
from tunesmith.models.weights import canonical_name, tensor_index


def weights(path: Path, *names: str) -> Path:
    write_safetensors(path, [Tensor(n, "F16", (4, 2), lambda: np.zeros((4, 2), np.float16)) for n in names])
    return path


def indexed(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def places(folder: Path) -> dict[str, tuple[Path, str]]:
    """Canonical name -> file, and the name inside it."""
    return {name: (stored.path, stored.name) for name, stored in tensor_index(folder).items()}


EMBED, Q, NORM = "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"


def test_a_single_file_is_taken_and_copies_beside_it_are_not(tmp_path: Path) -> None:
    single = weights(tmp_path / "model.safetensors", EMBED, Q)
    weights(tmp_path / "consolidated.safetensors", "tok_embeddings.weight")
    weights(tmp_path / "consolidated.00.safetensors", EMBED)
    weights(tmp_path / "adapter_model.safetensors", "base_model.model.x.lora_A.weight")
    assert places(tmp_path) == {EMBED: (single, EMBED), Q: (single, Q)}


def test_shards_are_found_by_the_index_or_without_it(tmp_path: Path) -> None:
    first = weights(tmp_path / "model-00001-of-00002.safetensors", EMBED)
    second = weights(tmp_path / "model-00002-of-00002.safetensors", Q, NORM)
    both = {EMBED: (first, EMBED), Q: (second, Q), NORM: (second, NORM)}
    assert places(tmp_path) == both
    indexed(tmp_path, {EMBED: first.name, Q: second.name, NORM: second.name})
    weights(tmp_path / "another.safetensors", EMBED)
    assert places(tmp_path) == both


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (Q, Q),
        ("lm_head.weight", "lm_head.weight"),
        ("language_model.model.norm.weight", NORM),
        ("model.language_model.norm.weight", NORM),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", None),
        ("model.vision_tower.layers.0.x.weight", None),
        ("multi_modal_projector.mm_input_projection_weight", None),
        ("visual.blocks.0.attn.qkv.weight", None),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
    ],
)
def test_names_of_multimodal_models_become_those_of_their_language_part(name: str, canonical: str | None) -> None:
    assert canonical_name(name) == canonical


def test_vision_tensors_are_left_out(tmp_path: Path) -> None:
    path = weights(tmp_path / "model.safetensors", "language_model.model.norm.weight", "vision_tower.x.weight")
    assert places(tmp_path) == {NORM: (path, "language_model.model.norm.weight")}


def says(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        tensor_index(folder)
    return str(error.value)


def test_missing_and_broken_weights_are_named(tmp_path: Path) -> None:
    assert "has no *.safetensors file" in says(tmp_path)
    first = weights(tmp_path / "model-00001-of-00002.safetensors", EMBED)
    indexed(tmp_path, {EMBED: first.name, Q: "model-00002-of-00002.safetensors"})
    assert "lacks model-00002-of-00002.safetensors" in says(tmp_path)
    indexed(tmp_path, {EMBED: first.name, Q: first.name})
    assert f"lacks the tensor {Q}" in says(tmp_path)
    indexed(tmp_path, {EMBED: first.name})
    first.write_bytes(first.read_bytes()[:-3])
    assert "cut short" in says(tmp_path)
    indexed(tmp_path, {EMBED: "../elsewhere.safetensors"})
    assert "outside the folder" in says(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert "cannot be read" in says(tmp_path)


def test_two_copies_of_a_tensor_are_refused(tmp_path: Path) -> None:
    weights(tmp_path / "a.safetensors", EMBED)
    weights(tmp_path / "b.safetensors", "language_model." + EMBED)
    assert "is in a.safetensors and in b.safetensors" in says(tmp_path)


def test_files_without_a_language_model_are_refused(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "unet.down.weight")
    assert "hold no language model" in says(tmp_path)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_the_reason(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"\x80\x04.")
    assert "refused because they run code" in says(tmp_path)
    assert "safetensors version" in says(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("key", ["auto_map", "model_file"])
@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"text_config": c}, lambda c: {"parts": [c]}])
def test_folders_that_name_python_code_are_refused(file: str, key: str, wrap: Any, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(wrap({key: "evil.py"})))
    with pytest.raises(ModelError) as error:
        refuse_unsafe(tmp_path)
    assert file in str(error.value)
    assert key in str(error.value)
    assert "Python code" in str(error.value)


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_quantized_folders_are_refused(key: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({key: {"bits": 4}}))
    with pytest.raises(ModelError, match="use the model's 16-bit folder or a GGUF"):
        refuse_unsafe(tmp_path)


def test_plain_folders_pass_and_unreadable_ones_do_not(tmp_path: Path) -> None:
    refuse_unsafe(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": null}')
    (tmp_path / "tokenizer_config.json").write_text("[]")
    refuse_unsafe(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        refuse_unsafe(tmp_path)
