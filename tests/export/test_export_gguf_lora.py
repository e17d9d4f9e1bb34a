"""The adapter as a GGUF LoRA over the base is the merged model, to llama.cpp itself."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))  # this file is also run by itself, as llama.cpp's child

from tiny_chat import write_model

from tunesmith.engines import adapter as layout
from tunesmith.engines.base import LoraShape
from tunesmith.errors import ModelError
from tunesmith.export.gguf_lora import write_gguf_lora
from tunesmith.export.gguf_write import write_gguf
from tunesmith.export.weights import Weights
from tunesmith.models import llamacpp
from tunesmith.models.architecture import read_architecture
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.verify import compare_logits

IDS = list(range(40, 90))


def write_adapter(base: Path, folder: Path, **config: Any) -> Path:
    """Rank 4 on every module, B as large as A: it changes the model as training would, and more."""
    shape = LoraShape(rank=4, alpha=8.0)
    rng = np.random.default_rng(5)
    arrays = layout.fresh(read_architecture(base), shape, 1)
    arrays = {
        k: v if ".lora_A." in k else rng.standard_normal(v.shape).astype(np.float32) * 0.1 for k, v in arrays.items()
    }
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": list(shape.modules), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return folder


class WithAdapter(llamacpp._LlamaCpp):
    """llama.cpp with an adapter laid over every context."""

    adapter = ""

    def _call(self, name: str, result: Any, *arguments: tuple[Any, Any]) -> Any:
        found = super()._call(name, result, *arguments)
        if name == "llama_init_from_model":
            pointer = ctypes.c_void_p
            path = (self.adapter.encode(), ctypes.c_char_p)
            lora = super()._call("llama_adapter_lora_init", pointer, (self.model, pointer), path)
            if not lora:
                raise RuntimeError(self.errors[-1] if self.errors else "the adapter cannot be loaded")
            loras, scales = (pointer * 1)(lora), (ctypes.c_float * 1)(1.0)
            status = super()._call(
                "llama_set_adapters_lora", ctypes.c_int32, (found, pointer), (loras, pointer * 1),
                (1, ctypes.c_size_t), (scales, ctypes.c_float * 1),
            )  # fmt: skip
            if status != 0:
                raise RuntimeError(f"llama_set_adapters_lora returned {status}")
        return found


def with_adapter(gguf: Path, adapter: Path, folder: Path) -> np.ndarray:
    """float32 [len(IDS), vocabulary], from a child process, as llama.cpp aborts where Python would raise."""
    command = [sys.executable, __file__, str(gguf), str(adapter), str(folder / "logits.npy")]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return np.load(folder / "logits.npy")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("lora") / "base", width=64)


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}])
def test_base_and_lora_in_llama_cpp_are_the_merged_model(base: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    adapter = write_adapter(base, tmp_path / "adapter", **more)
    write_gguf_lora(adapter, base, tmp_path / "lora.gguf", provenance={"tunesmith.run": "demo"})
    write_gguf(Weights(base), base, tmp_path / "base.gguf", "f32")
    write_gguf(Weights(base, adapter), base, tmp_path / "merged.gguf", "f32")
    (plain,) = llamacpp.ask_llamacpp(tmp_path / "base.gguf", [IDS])
    (merged,) = llamacpp.ask_llamacpp(tmp_path / "merged.gguf", [IDS])
    assert plain.logits is not None
    assert merged.logits is not None
    laid_over = with_adapter(tmp_path / "base.gguf", tmp_path / "lora.gguf", tmp_path)
    changed, _, _ = compare_logits(merged.logits, plain.logits)
    same, top1, _ = compare_logits(merged.logits, laid_over)
    assert changed.mean() > 0.01
    assert same.mean() < 1e-6
    assert top1.all()


def test_the_file_says_what_it_is_and_holds_both_halves(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(base, tmp_path / "adapter")
    write_gguf_lora(adapter, base, tmp_path / "lora.gguf")
    found = read_gguf(tmp_path / "lora.gguf")
    assert found.metadata["general.type"] == "adapter"
    assert found.metadata["adapter.type"] == "lora"
    assert found.metadata["adapter.lora.alpha"] == 8.0
    arrays = load_file(adapter / "adapter_model.safetensors")
    assert len(found.tensors) == len(arrays)
    a = found.rows(found.tensors["blk.1.ffn_down.weight.lora_a"]).view(np.float32)
    np.testing.assert_array_equal(a, arrays["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"])


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(write_model(tmp_path / "wider", width=96), tmp_path / "adapter")
    with pytest.raises(ModelError, match="another base"):
        write_gguf_lora(adapter, base, tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()


if __name__ == "__main__":
    WithAdapter.adapter = sys.argv[2]
    llama = WithAdapter(str(llamacpp.shared_library()), sys.argv[1])
    np.save(sys.argv[3], next(llama.logits([IDS])))
