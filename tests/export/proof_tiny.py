"""A tiny trained model with its export, and a way to write the export again with a fault in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from models_tiny import byte_level_vocabulary, permute, tiny_model, write_gguf
from tiny_chat import CHATML

from tunesmith.engines import adapter as layout
from tunesmith.engines.base import Engine, LoraShape
from tunesmith.engines.torch_engine import TorchEngine
from tunesmith.export.weights import Weights
from tunesmith.models.architecture import read_architecture
from tunesmith.models.chat import ChatFormat
from tunesmith.models.gguf_import import import_gguf
from tunesmith.models.gguf_tensors import hf_name
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.training.checkpoints import adapter_config

HEADS = {"q_proj": 4, "k_proj": 2}
Change = Callable[[str, np.ndarray], np.ndarray]


class Tiny(NamedTuple):
    """base: the model's folder; gguf: the right export of base and adapter, in F16."""

    base: Path
    adapter: Path
    gguf: Path
    engine: Engine
    chat: ChatFormat


def make(folder: Path, arch: str = "llama") -> Tiny:
    vocabulary = byte_level_vocabulary("smollm" if arch == "llama" else "qwen2")
    model = tiny_model(arch, len(vocabulary["tokens"]), tie_word_embeddings=True)
    plain = write_gguf(folder / "plain.gguf", arch, model, vocabulary)
    rewrite(plain, folder / "base.gguf", metadata={"tokenizer.chat_template": CHATML})
    import_gguf(folder / "base.gguf", folder / "base")
    architecture = read_architecture(folder / "base")
    adapter = write_adapter(folder / "adapter", architecture)
    engine = TorchEngine(folder / "base", architecture, "fp32")
    engine.add_adapter(LoraShape(4, 8.0), 0)
    from safetensors.numpy import load_file

    engine.load_adapter_arrays(load_file(adapter / "adapter_model.safetensors"))
    merged = rewrite(folder / "base.gguf", folder / "merged.gguf", change=expected(folder / "base", adapter))
    return Tiny(folder / "base", adapter, merged, engine, ChatFormat(folder / "base"))


def write_adapter(folder: Path, architecture: Any) -> Path:
    shape, rng = LoraShape(4, 8.0), np.random.default_rng(5)
    arrays = layout.fresh(architecture, shape, 0)
    for name, array in arrays.items():
        if "lora_B" in name:
            arrays[name] = rng.normal(0, 0.05, array.shape).astype(np.float32)
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors", {"format": "pt"})
    config = adapter_config(shape, architecture.layers, "tiny")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def expected(base: Path, adapter: Path | None) -> Change:
    """The weights as llama.cpp wants them, in float16 where they are matrices."""
    weights, family = Weights(base, adapter), read_architecture(base).family

    def change(name: str, data: np.ndarray) -> np.ndarray:
        ours = hf_name(name, gemma=False)
        if ours is None or data.ndim < 2:
            return data
        values = weights.read(ours)
        heads = HEADS.get(ours.split(".")[-2])
        values = permute(values, heads) if heads and family == "llama" else values
        return values.astype(np.float16)

    return change


def rewrite(
    source: Path, target: Path, *, metadata: dict[str, Any] | None = None, change: Change = lambda _, data: data
) -> Path:
    """The GGUF once more, with other metadata values or tensors."""
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer, changes = gguf.GGUFWriter(target, arch), dict(metadata or {})
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = changes.pop(key, field.contents())
        item = field.types[1] if len(field.types) > 1 else None
        if value is not None:
            writer.add_key_value(key, value, field.types[0], sub_type=item)
    for key, value in changes.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, change(tensor.name, np.array(tensor.data)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def rows(count: int = 6) -> list[Example]:
    """Questions and answers, every other one with a system message."""
    made = list[Example]()
    for i in range(count):
        turns = [
            Message("user", f"What is {i} + {i % 7}? 问题"),
            Message("assistant", f"It is {i + i % 7}.", learn=True),
        ]
        system = [Message("system", "Answer in one sentence.")] if i % 2 else []
        made.append(Example(tuple(system + turns), Origin("test.jsonl", i + 1)))
    return made
