"""The merged weights are those of peft, rounded as torch rounds, in a folder that transformers loads."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
import reference
import tiny
import torch
from tiny_chat import write_model

from tunesmith.engines.adapter import fresh
from tunesmith.engines.base import LoraShape
from tunesmith.errors import ModelError, StorageError
from tunesmith.export import merge
from tunesmith.export.merge import write_merged
from tunesmith.export.weights import Weights
from tunesmith.models.architecture import read_architecture
from tunesmith.models.ggml import FIRST_INFINITE, narrow, widen
from tunesmith.models.safetensors_file import read_header

IDS = list(range(20, 40))
SHAPE = LoraShape(rank=4, alpha=8)


def trained(folder: Path, base: Path, shape: LoraShape = SHAPE, **config: Any) -> Path:
    """An adapter folder whose B is not zero; ``config`` is added to adapter_config.json."""
    arrays = fresh(read_architecture(base), shape, 3)
    rng = np.random.default_rng(5)
    arrays = {k: rng.normal(0, 0.1, a.shape).astype(np.float32) if "lora_B" in k else a for k, a in arrays.items()}
    reference.write_adapter(folder, base, shape, arrays)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def peft_merged(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    from peft import PeftModel

    with reference._peft_quiet():
        model: Any = PeftModel.from_pretrained(reference.base_model(base), adapter).merge_and_unload()
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


def sparse_base(folder: Path, shape: tuple[int, int]) -> Path:
    """A base of one large BF16 matrix of zeros, and an adapter on it, that take no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    size = 2 * shape[0] * shape[1]
    header = json.dumps({"lm_head.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    name = "base_model.model.lm_head.lora_"
    halves = {f"{name}A.weight": np.ones((2, shape[1]), np.float32), f"{name}B.weight": np.ones((shape[0], 2), "f4")}
    save_file(halves, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    return folder


@pytest.fixture(autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    with reference.one_thread():
        yield


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("merge") / "base")


@pytest.mark.parametrize(("family", "more"), [*((f, {}) for f in tiny.FAMILIES), ("llama", {"use_rslora": True})])
def test_the_weights_are_those_that_peft_merges(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    base = tiny.tiny(family)
    adapter = trained(tmp_path / "adapter", base, **more)
    expected, weights = peft_merged(base, adapter), Weights(base, adapter)
    for name in weights.names():
        np.testing.assert_allclose(weights.read(name), expected.pop(name), rtol=0, atol=1e-6)
    assert set(expected) <= {"lm_head.weight"}  # only where it is the embedding


def test_only_the_trained_layers_change_and_slices_are_the_whole(tmp_path: Path) -> None:
    base = tiny.tiny("llama")
    weights = Weights(base, trained(tmp_path / "a", base, LoraShape(4, 8, modules=("q_proj", "down_proj"), layers=2)))
    changed = [name for name in weights.names() if weights.is_changed(name)]
    assert changed == [f"model.layers.{i}.{m}.weight" for i in (2, 3) for m in ("mlp.down_proj", "self_attn.q_proj")]
    for name in (*changed, "model.norm.weight"):
        whole, end = weights.read(name), weights.shape(name)[0]
        parts = [weights.rows(name, at, min(at + 7, end)) for at in range(0, end, 7)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)
        assert len(weights.rows(name, end - 1, end + 9)) == 1
        assert (whole.dtype, whole.shape) == (np.float32, weights.shape(name))


def test_an_adapter_that_is_trained_again_under_the_same_name_is_read_again(tmp_path: Path) -> None:
    base, name = tiny.tiny("llama"), "model.layers.0.self_attn.q_proj.weight"
    adapter = trained(tmp_path / "adapter", base)
    before, path = Weights(base, adapter).read(name), adapter / "adapter_model.safetensors"
    save_file({key: 2 * array for key, array in load_file(path).items()}, path)
    update = before - Weights(base).read(name)
    np.testing.assert_allclose(Weights(base, adapter).read(name) - before, 3 * update, rtol=0, atol=1e-5)


def test_layers_are_counted_as_numbers(tmp_path: Path) -> None:
    names = Weights(write_model(tmp_path / "base", layers=12)).names()
    layers = [int(name.split(".")[2]) for name in names[1:-1]]
    assert list(dict.fromkeys(layers)) == list(range(12))
    assert (names[0], names[-1]) == ("model.embed_tokens.weight", "model.norm.weight")


def test_a_head_that_is_tied_is_left_out_as_the_engines_do(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, base / "model.safetensors")
    assert "lm_head.weight" not in Weights(base).names()


@pytest.mark.parametrize(("dtype", "kind"), [("BF16", "bfloat16"), ("F16", "float16")])
def test_rounding_is_that_of_torch_and_reading_is_exact(dtype: str, kind: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    stored = every if dtype == "BF16" else every.view(np.float16)
    wide = torch.from_numpy(every.view(np.int16)).view(getattr(torch, kind)).float().numpy()
    np.testing.assert_array_equal(widen(stored.copy()), wide)
    np.testing.assert_array_equal(np.signbit(widen(stored.copy())), np.signbit(wide))

    finite = np.sort(wide[np.isfinite(wide)])
    between = (finite[1:].astype(np.float64) / 2 + finite[:-1].astype(np.float64) / 2).astype(np.float32)  # ties
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    values = np.concatenate([finite, between, np.nextafter(between, 1), np.nextafter(between, -1), bits.view("f4")])
    values = values[np.abs(values) < FIRST_INFINITE[dtype]]
    expected = torch.from_numpy(values.copy()).to(getattr(torch, kind)).view(torch.int16).numpy()
    np.testing.assert_array_equal(narrow(values, dtype, "w").view(np.int16), expected)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_number_that_does_not_fit_is_refused(dtype: str) -> None:
    limit = np.float32(FIRST_INFINITE[dtype])
    largest = np.nextafter(limit, np.float32(0))
    assert np.isfinite(widen(narrow(np.array([largest, -largest]), dtype, "w"))).all()
    for value in (limit, -limit, np.inf, -np.inf, np.nan):
        with pytest.raises(ModelError, match=r"model\.norm\.weight holds numbers that are no"):
            narrow(np.array([1, value], np.float32), dtype, "model.norm.weight")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_the_folder_gives_the_logits_of_the_engine_with_its_adapter(family: str, tmp_path: Path) -> None:
    from tunesmith.engines.torch_engine import TorchEngine

    base = tiny.tiny(family)
    adapter = trained(tmp_path / "adapter", base)
    engine: Any = TorchEngine(base, read_architecture(base), dtype="fp32")
    engine.add_adapter(SHAPE, 3)
    engine.load_adapter_arrays(load_file(adapter / "adapter_model.safetensors"))
    write_merged(Weights(base, adapter), base, tmp_path / "merged")
    logits = reference.base_logits(tmp_path / "merged", IDS)
    np.testing.assert_allclose(logits, engine.logits(IDS), rtol=1e-4, atol=1e-4)
    assert np.abs(logits - reference.base_logits(base, IDS)).max() > 0.1


def test_shards_are_within_the_limit_and_load_like_one_file(tmp_path: Path) -> None:
    base = tiny.tiny("llama")
    weights, seen = Weights(base, trained(tmp_path / "adapter", base)), []
    write_merged(weights, base, tmp_path / "many", dtype="bf16", shard_bytes=20_000, on_progress=seen.append)
    write_merged(weights, base, tmp_path / "one", dtype="bf16")
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(sum(t.stop - t.start for t in read_header(f).values()) <= 20_000 for f in files)
    assert index["weight_map"] == {name: f.name for f in files for name in sorted(read_header(f))}
    assert sorted(index["weight_map"]) == sorted(weights.names())
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    assert not (tmp_path / "one/model.safetensors.index.json").exists()
    logits = [reference.base_logits(tmp_path / name, IDS) for name in ("many", "one")]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(("dtype", "kind", "name"), [("bf16", "BF16", "bfloat16"), ("fp16", "F16", "float16")])
def test_every_weight_is_of_the_type_that_config_json_names(
    dtype: Any, kind: str, name: str, chat_base: Path, tmp_path: Path
) -> None:
    write_merged(Weights(chat_base), chat_base, tmp_path / "out", dtype=dtype)
    assert {t.dtype for t in read_header(tmp_path / "out/model.safetensors").values()} == {kind}
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == name


def test_source_keeps_the_bytes_of_what_did_not_change(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tensors = {k: t.astype(np.float16) if t.ndim == 2 else t for k, t in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors")
    adapter = trained(tmp_path / "adapter", base, LoraShape(2, 4, modules=("v_proj",), layers=1))
    write_merged(Weights(base, adapter), base, tmp_path / "out", dtype="source")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert {k for k in merged if not np.array_equal(merged[k], tensors[k])} == {
        "model.layers.1.self_attn.v_proj.weight"
    }
    assert all(merged[k].dtype == tensors[k].dtype for k in tensors)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "float16"


def test_the_folder_holds_model_and_tokenizer_and_nothing_else(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    for name in ("chat_template.jinja", "generation_config.json", "modeling_own.py", "pytorch_model.bin", "notes.txt"):
        (base / name).write_text("{}")
    write_merged(Weights(base), base, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json",
    }  # fmt: skip
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_of_a_model_that_sees_images_the_language_part_is_exported(tmp_path: Path) -> None:
    plain, base = tiny.tiny("gemma3"), tmp_path / "base"
    base.mkdir()
    tensors = load_file(plain / "model.safetensors")
    wrapped = {name.replace("model.", "language_model.model.", 1): t for name, t in tensors.items()}
    save_file(wrapped | {"vision_tower.x.weight": np.ones((2, 2), np.float32)}, base / "model.safetensors")
    text = json.loads((plain / "config.json").read_text())
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (base / "config.json").write_text(json.dumps(config | {"vision_config": {}}))
    adapter = trained(tmp_path / "adapter", plain)
    write_merged(Weights(base, adapter), base, tmp_path / "out")
    write_merged(Weights(plain, adapter), plain, tmp_path / "plain")
    logits = [reference.base_logits(tmp_path / name, IDS) for name in ("out", "plain")]
    np.testing.assert_array_equal(*logits)


def test_a_matrix_of_a_7b_model_is_merged_in_a_few_megabytes(tmp_path: Path) -> None:
    base = sparse_base(tmp_path / "base", (32_000, 4_096))
    weights = Weights(base, base)
    tracemalloc.start()
    write_merged(weights, base, tmp_path / "out", dtype="bf16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
    assert (weights.rows("lm_head.weight", 31_990, 32_000) == 4.0).all()
    shutil.rmtree(tmp_path / "out")


def test_an_adapter_of_another_base_is_refused(chat_base: Path, tmp_path: Path) -> None:
    wider = trained(tmp_path / "wider", write_model(tmp_path / "w", width=64))
    with pytest.raises(ModelError, match=r"another base: its .*down_proj is 64 x 128 and this base's is 32 x 64"):
        Weights(chat_base, wider)
    deeper = trained(tmp_path / "deeper", write_model(tmp_path / "d", layers=3))
    with pytest.raises(ModelError, match=r"another base: it changes .*layers\.2.*, which .* does not have"):
        Weights(chat_base, deeper)


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 2}),
     ("alpha_pattern", {"q_proj": 2}), ("peft_type", "IA3"), ("init_lora_weights", "pissa"),
     ("fan_in_fan_out", True), ("lora_bias", True), ("layer_replication", [[0, 1]])],
)  # fmt: skip
def test_adapters_that_are_no_plain_lora_are_refused(key: str, value: Any, chat_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"says {key} = .*, with which an adapter cannot be merged"):
        Weights(chat_base, trained(tmp_path / "adapter", chat_base, **{key: value}))


def test_a_damaged_adapter_is_refused_in_one_sentence(chat_base: Path, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", chat_base)
    path, arrays = adapter / "adapter_model.safetensors", load_file(adapter / "adapter_model.safetensors")
    first = sorted(arrays)[0]
    damaged = {
        "only one half": {k: a for k, a in arrays.items() if k != first},
        "not finite": arrays | {first: arrays[first] * np.float32(np.nan)},
        "no plain LoRA": arrays | {"base_model.model.lm_head.weight": np.ones((2, 2), np.float32)},
        "is empty": {},
        "has the rank 2": {k: a[:2] if "lora_A" in k else a[:, :2] for k, a in arrays.items()},
    }
    for sentence, content in damaged.items():
        save_file({k: np.ascontiguousarray(a) for k, a in content.items()}, path)
        with pytest.raises(ModelError, match=sentence):
            Weights(chat_base, adapter)
    path.write_bytes(b"\x20\x00")
    with pytest.raises(ModelError):
        Weights(chat_base, adapter)
    path.unlink()
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors"):
        Weights(chat_base, adapter)
    for config in ('{"fine_tune_type": "lora"}', "[]", "{", '{"r": 0, "lora_alpha": 1}', '{"r": 1, "lora_alpha": NaN}'):
        (adapter / "adapter_config.json").write_text(config)
        with pytest.raises(ModelError, match="no configuration of a LoRA adapter in PEFT's layout"):
            Weights(chat_base, adapter)


def test_a_base_that_is_cut_short_while_it_is_merged_leaves_nothing(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    weights = Weights(base)
    with (base / "model.safetensors").open("rb+") as file:
        file.truncate(5_000)
    with pytest.raises(ModelError, match="was cut short"):
        write_merged(weights, base, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_a_disk_that_fills_leaves_the_earlier_export_as_it_was(
    chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_merged(Weights(chat_base), chat_base, tmp_path / "out", dtype="bf16")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    calls = iter(range(6))

    def full(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return narrow(values, dtype, name)

    monkeypatch.setattr(merge, "narrow", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_merged(Weights(chat_base), chat_base, tmp_path / "out", dtype="fp16")
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    base = write_model(tmp_path / "work/base")
    weights = Weights(base)
    for target in (base, tmp_path / "work"):
        with pytest.raises(StorageError, match="holds the base model"):
            write_merged(weights, base, target)
    for _ in range(2):
        write_merged(weights, base, tmp_path / "again")
        (tmp_path / "again/.DS_Store").write_text("a Mac looked into it")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds thesis\.txt, which is not of an export"):
        write_merged(weights, base, tmp_path / "own")
    assert (tmp_path / "own/thesis.txt").read_text() == "mine"
    write_merged(weights, base, tmp_path / "out", shard_bytes=1)
    write_merged(weights, base, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


def test_a_base_that_names_code_or_is_quantized_is_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    for more in ({"auto_map": {"AutoModel": "own.Model"}}, {"quantization_config": {"bits": 4}}):
        (base / "config.json").write_text(json.dumps(config | more))
        with pytest.raises(ModelError, match=next(iter(more))):
            Weights(base)
