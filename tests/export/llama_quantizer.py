"""What llama.cpp's own quantizer makes of a few models, kept as hashes in llama_quantizer.json.

No package that the project depends on carries ``llama_model_quantize``; cyllama does. The file was made with

    pip install --no-deps cyllama==0.2.18       # in an environment of its own
    PYTHONPATH=src:tests/export .venv/bin/python -m llama_quantizer write FOLDER
    OTHER/bin/python tests/export/llama_quantizer.py quantize FOLDER
    PYTHONPATH=src:tests/export .venv/bin/python -m llama_quantizer hash FOLDER > tests/export/llama_quantizer.json

and llama-cpp-py-sync 0.11739 (llama.cpp b11739) gave the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

KINDS = {"q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}
"""llama.cpp's numbers of the files, ``enum llama_ftype``."""


def _config(family: str, layers: int, width: int, mlp: int, heads: int, kv: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": family, "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": mlp,
        "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": 32, "vocab_size": 64,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, **more,
    }  # fmt: skip


_GEMMA = {"sliding_window": 64, "query_pre_attn_scalar": 32, "hidden_activation": "gelu_pytorch_tanh"}
CONFIGS = {
    "tied": _config("llama", 12, 256, 512, 4, 2, tie_word_embeddings=True),
    "untied": _config("mistral", 9, 256, 512, 4, 1, tie_word_embeddings=False),
    "rows of 96 and 160": _config("llama", 5, 96, 160, 4, 2, tie_word_embeddings=False),
    "80 layers": _config("llama", 80, 256, 256, 2, 1, tie_word_embeddings=False),
    "gemma2": _config("gemma2", 8, 256, 512, 4, 2, **_GEMMA),
    "fused": _config("phi3", 8, 256, 256, 4, 4),
}
"""Widths that fit blocks of 256 and that do not, heads tied and not, q k v in one; 80 layers are taken for a 70B."""


class Random:
    """The weights of a config: the same numbers on every machine, and rows that quantizers trip over."""

    def __init__(self, config: dict[str, Any]) -> None:
        import numpy as np

        rng = np.random.default_rng(0)
        self._data = {}
        for name, shape in _shapes(config).items():
            # whole numbers divided by a power of two: drawing from a bell curve differs from machine to machine
            data = (rng.integers(-(1 << 12), 1 << 12, shape) / (1 << 14)).astype(np.float32)
            if data.ndim == 2:
                _spoil(data)
            self._data[name] = data

    def names(self) -> list[str]:
        return list(self._data)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._data[name].shape

    def rows(self, name: str, start: int, stop: int) -> Any:
        return self._data[name][start:stop]


def _shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    from tunesmith.models.gguf_tensors import expected_shapes

    tied = c.get("tie_word_embeddings", c["model_type"] == "gemma2")
    alike = {"gemma2": "gemma3_text", "mistral": "llama"}.get(c["model_type"], c["model_type"])
    shapes = expected_shapes(c | {"model_type": alike, "tie_word_embeddings": tied})
    if c["model_type"] == "gemma2":
        return {name: shape for name, shape in shapes.items() if not name.endswith(("q_norm.weight", "k_norm.weight"))}
    if c["model_type"] != "phi3":
        return shapes
    fused: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        for parts, whole in (("qkv", "qkv_proj"), (("gate", "up"), "gate_up_proj")):
            if (part := next((p for p in parts if f".{p}_proj." in name), None)) is not None:
                name = name.replace(f"{part}_proj", whole)
                shape = (fused.get(name, (0,))[0] + shape[0], *shape[1:])
        fused[name] = shape
    return fused


def _spoil(data: Any) -> None:
    """Zeros, constants, all but zero, large, outliers, one sign only."""
    import numpy as np

    data[0], data[1], data[2] = 0, 0.125, -3
    data[3] *= np.float32(2.0**-100)
    data[4] *= np.float32(2.0**-133)
    data[5] *= 1 << 17
    data[6, ::7], data[6, 0] = 0, 500
    data[7], data[8] = abs(data[7]), -abs(data[8])
    data[9, 1:] = 0
    data[10] = (data[10] * 6) ** 9
    data[11] = np.linspace(-1, 1, data.shape[1])
    data[12] = data[12].astype(np.float16)


def write(config: dict[str, Any], folder: Path, kind: str) -> Path:
    """The model of a config as a GGUF without a vocabulary, written by tunesmith."""
    from tunesmith.export.gguf_metadata import read_form
    from tunesmith.export.gguf_write import plan, write_container
    from tunesmith.export.quantize import MIXTURES

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    form = read_form(folder)
    keys = {"general.file_type": int(MIXTURES[kind][1]), "general.quantization_version": 2}
    write_container(folder / f"{kind}.gguf", form.metadata | keys, plan(Random(config), form, kind))
    return folder / f"{kind}.gguf"


def digest(path: Path) -> dict[str, Any]:
    """How many tensors are of each type, and a hash of all names, types and bytes."""
    from tunesmith.models.gguf_file import read_gguf

    gguf, whole = read_gguf(path), hashlib.sha256()
    tensors = sorted(gguf.tensors.items())
    for name, tensor in tensors:
        whole.update(f"{name} {tensor.type.name} {math.prod(tensor.shape)}\n".encode())
        whole.update(gguf.rows(tensor).tobytes())
    return {"types": dict(sorted(Counter(t.type.name for _, t in tensors).items())), "sha256": whole.hexdigest()}


def _quantize(folder: Path) -> None:
    from cyllama.llama import llama_cpp

    for source in sorted(folder.glob("*/f32.gguf")):
        for kind, number in KINDS.items():
            parameters = llama_cpp.LlamaModelQuantizeParams()
            parameters.ftype = number
            llama_cpp.model_quantize(str(source), str(source.with_name(f"theirs-{kind}.gguf")), parameters)


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        for name, config in CONFIGS.items():
            write(config, where / name, "f32")
    elif what == "quantize":
        _quantize(where)
    else:
        found = {n: {kind: digest(where / n / f"theirs-{kind}.gguf") for kind in KINDS} for n in CONFIGS}
        print(json.dumps(found, indent=1))
