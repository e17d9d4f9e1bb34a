"""Estimated beside measured memory, for models and rows of several shapes, each in a process of its own.

    python benchmarks/memory.py [--engine torch]

Models are of random weights. Each trains 12 steps on rows of lengths between a third of the longest and the longest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tunesmith.engines.base import LORA_MODULES, Batch, LoraShape, Precision, StepSettings, peak_memory
from tunesmith.engines.choose import open_engine, settled
from tunesmith.engines.needs import Training, needs
from tunesmith.models.architecture import read_architecture
from tunesmith.models.gguf_tensors import expected_shapes
from tunesmith.models.safetensors_file import Tensor, write_safetensors

STEPS = 12


@dataclass(frozen=True)
class Case:
    name: str
    layers: int
    width: int
    vocabulary: int
    trained: int
    longest: int
    batch: int
    modules: tuple[str, ...] = LORA_MODULES
    precision: Precision = "bf16"


CASES = (
    Case("135M, all layers", 30, 576, 49152, 30, 256, 8),
    Case("135M, top 4, q and v", 30, 576, 49152, 4, 256, 8, ("q_proj", "v_proj")),
    Case("135M in float32, rows of 1,024", 30, 576, 49152, 30, 1024, 2, precision="fp32"),
    Case("500M, words of Qwen, all layers", 24, 896, 151936, 24, 512, 4),
    Case("1.5B, words of Qwen, top 8", 28, 1536, 151936, 8, 512, 4),
    Case("1.1B, all layers, rows of 1,024", 22, 2048, 32000, 22, 1024, 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimated beside measured memory")
    parser.add_argument("--engine", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        measure(CASES[options.case], options.engine, options.folder)
        return
    print(
        "| model and rows | estimate | measured | off by | program | weights | adapter | activations | head | filling |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for i, case in enumerate(CASES):
        with tempfile.TemporaryDirectory() as folder:
            write_model(case, Path(folder))
            command = [sys.executable, __file__, "--engine", options.engine, "--case", str(i), "--folder", folder]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


def config(case: Case) -> dict:
    heads = case.width // 64
    return {
        "model_type": "llama", "hidden_size": case.width, "intermediate_size": case.width * 8 // 3 // 64 * 64,
        "num_hidden_layers": case.layers, "num_attention_heads": heads,
        "num_key_value_heads": next(n for n in (8, 7, 4, 3, 2, 1) if heads % n == 0),
        "head_dim": 64, "vocab_size": case.vocabulary, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
        "tie_word_embeddings": True, "rope_theta": 10000.0,
    }  # fmt: skip


def write_model(case: Case, folder: Path) -> None:
    rng = np.random.default_rng(0)

    def values(shape: tuple[int, ...]) -> np.ndarray:
        drawn = rng.standard_normal(shape, np.float32) * 0.02 if len(shape) > 1 else np.ones(shape, np.float32)
        return (drawn.view(np.uint32) >> 16).astype(np.uint16)

    shapes = expected_shapes(config(case))
    tensors = [Tensor(name, "BF16", shape, lambda shape=shape: values(shape)) for name, shape in shapes.items()]
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config(case)))


def measure(case: Case, engine_name: Literal["torch", "mlx"], folder: Path) -> None:
    from tunesmith.dataset.store import Tokens
    from tunesmith.dataset.tokens import Sequence
    from tunesmith.sources.example import Example, Origin

    rng, arch = np.random.default_rng(1), read_architecture(folder)
    shape = LoraShape(8, 16.0, 0.0, case.modules, case.trained)
    lengths = [case.longest, *rng.integers(case.longest // 3, case.longest, STEPS * case.batch - 1).tolist()]
    rows = [
        Sequence(rng.integers(3, 32000, n).tolist(), [i >= n // 2 for i in range(n)], Example((), Origin("")))
        for n in lengths
    ]
    tokens, below = Tokens.of(rows), arch.layers - case.trained
    engine = open_engine(folder, arch, engine_name, case.precision, below)
    engine.add_adapter(shape, 0)
    states = engine.prefix([tokens[i][0] for i in range(len(rows))]) if below else None
    for step in range(STEPS):
        taken = range(step * case.batch, (step + 1) * case.batch)
        batch = Batch.of([tokens[i] for i in taken], states and states[taken.start : taken.stop])
        engine.step([batch], StepSettings(step + 1, 1e-4))
    measured = peak_memory()
    top = sorted(lengths)[-case.batch :]
    cores = settled(engine_name, case.precision)[1]
    found = needs(arch, Training(engine.name, engine.precision, shape, top, sum(top) // 2, below > 0, cores))
    parts = [found.program, found.weights, found.adapter, found.activations, found.head, found.filling]
    shown = [f"{size / 1e9:.2f} GB" for size in (found.total, measured)]
    cells = [case.name, *shown, f"{found.total / measured - 1:+.0%}", *(f"{part / 1e9:.2f}" for part in parts)]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
