"""Merging and writing a GGUF beside copying the same bytes: time and memory.

    python benchmarks/export.py [--layers 4] [--rounds 3] [--folder FOLDER] [--quant f16 …]

A model of random bf16 weights in the shape of a 7B (width 4096; 4 layers are 2.1 GB, all 32 are 13.5) and an adapter of
rank 16 on all linear modules. Each thing is done between two copies of the model's files with fsync: a minute in which
the disk or the machine is slow is slow for both. Needs three times the model's size on the disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from large import CONFIG, write_model
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tunesmith.engines.base import peak_memory
from tunesmith.export.gguf_write import write_gguf
from tunesmith.export.merge import write_merged
from tunesmith.export.weights import Weights
from tunesmith.models.safetensors_file import Tensor, write_safetensors

RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging and GGUF beside copying")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quant", nargs="+", default=["f16", "q8_0"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        base, adapter, out = folder / "base", folder / "adapter", folder / "out"
        writing = multiprocessing.get_context("spawn").Process(target=write, args=(base, adapter, options.layers))
        writing.start()  # in a process of its own, whose memory is not counted
        writing.join()
        out.mkdir()
        jobs: dict[str, Callable[[], object]] = {
            "merged": lambda: write_merged(Weights(base, adapter), base, out / "merged")
        }
        for kind in options.quant:
            jobs[kind] = lambda kind=kind: write_gguf(
                Weights(base, adapter), base, out / "model.gguf", kind, provenance={}
            )
        copied(base, out)  # the first reads from the disk
        print("| written | copies | seconds | processor's seconds |\n|---|---|---|---|")
        for what, job in jobs.items():
            ratios, seconds, work = [], [], []
            for _ in range(options.rounds):
                before, cpu = copied(base, out), os.times()
                seconds.append(timed(job))
                work.append(sum(os.times()[:2]) - sum(cpu[:2]))
                clear(out)
                ratios.append(seconds[-1] / statistics.mean([before, copied(base, out)]))
            span = f"{min(ratios):.1f} to {max(ratios):.1f}"
            print(f"| {what} | {span} | {statistics.median(seconds):.1f} | {statistics.median(work):.1f} |", flush=True)
        print(f"peak memory {peak_memory() / 1e6:.0f} MB")


def write(base: Path, adapter: Path, layers: int) -> None:
    write_model(base, layers)
    write_tokenizer(base)
    write_adapter(adapter, layers)


def timed(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def copied(base: Path, out: Path) -> float:
    """Seconds to copy the model's files, until they are on the disk."""

    def copy() -> None:
        for path in base.glob("*.safetensors"):
            shutil.copyfile(path, out / path.name)
            with (out / path.name).open("rb+") as file:
                os.fsync(file.fileno())

    seconds = timed(copy)
    clear(out)
    return seconds


def clear(out: Path) -> None:
    shutil.rmtree(out)
    out.mkdir()


def write_tokenizer(folder: Path) -> None:
    """A vocabulary of made-up words, as many as the model has."""
    tokens = ["<s>", "</s>", *sorted(ByteLevel.alphabet())]
    tokens += [f"word{i}" for i in range(CONFIG["vocab_size"] - len(tokens))]
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), Decoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{% for m in messages %}{{ m.content }}</s>{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_adapter(folder: Path, layers: int) -> None:
    width, mlp, rng = CONFIG["hidden_size"], CONFIG["intermediate_size"], np.random.default_rng(1)
    modules = {f"self_attn.{m}_proj": (width, width) for m in "qkvo"}
    modules |= {"mlp.gate_proj": (mlp, width), "mlp.up_proj": (mlp, width), "mlp.down_proj": (width, mlp)}
    tensors = []
    for i in range(layers):
        for module, (rows, columns) in modules.items():
            for name, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                values = rng.standard_normal(shape, np.float32) * 0.01
                at = f"base_model.model.model.layers.{i}.{module}.lora_{name}.weight"
                tensors.append(Tensor(at, "F32", shape, lambda values=values: values))
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    names = sorted({module.split(".")[1] for module in modules})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": names, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
