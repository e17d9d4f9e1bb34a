"""A 7B-shaped model of random weights: its top layers train where the whole would not fit.

    python benchmarks/large.py [--layers 4] [--rows 8] [--steps 3] [--folder FOLDER] [--gguf]

32 layers of width 4096, 32,000 words: bf16 in shards of one layer, 13.5 GB in FOLDER (made when it is not there; else
in a temporary one), or with --gguf one file of q4_0, 3.8 GB. The frozen layers are streamed one by one, then the steps
run on rows of 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

from tunesmith.engines.base import LoraShape, StepSettings, peak_memory
from tunesmith.engines.choose import open_engine
from tunesmith.models.architecture import read_architecture
from tunesmith.models.find import find
from tunesmith.models.safetensors_file import Tensor, write_safetensors
from tunesmith.training.loop import make_batch
from tunesmith.training.prefix import Plan

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip
GGUF = "large-q4_0.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description="Training the top layers of a 7B-shaped model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--gguf", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        file, write = (folder / GGUF, write_gguf) if options.gguf else (folder / "config.json", write_model)
        if not file.exists():  # in a process of its own, whose memory is not counted
            writing = multiprocessing.get_context("spawn").Process(target=write, args=(folder,))
            writing.start()
            writing.join()
            if writing.exitcode:
                raise SystemExit("the model could not be written")
        measure(str(file if options.gguf else folder), options.layers, options.rows, options.steps)


def write_model(folder: Path, layers: int = CONFIG["num_hidden_layers"]) -> None:
    """Weights of ±0.02, in shards of one layer."""
    width, mlp, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    rng = np.random.default_rng(0)

    def matrix(name: str, *shape: int) -> Tensor:
        return Tensor(name, "BF16", shape, lambda: bf16(rng.standard_normal(shape, np.float32) * 0.02))

    def ones(name: str) -> Tensor:
        return Tensor(name, "BF16", (width,), lambda: bf16(np.ones(width, np.float32)))

    folder.mkdir(parents=True, exist_ok=True)
    shards = {"ends": [matrix("model.embed_tokens.weight", vocabulary, width), ones("model.norm.weight"),
                       matrix("lm_head.weight", vocabulary, width)]}  # fmt: skip
    for i in range(layers):
        at = f"model.layers.{i}."
        shards[f"{i:02}"] = [
            *(matrix(f"{at}self_attn.{m}_proj.weight", width, width) for m in "qkvo"),
            *(matrix(f"{at}mlp.{m}_proj.weight", mlp, width) for m in ("gate", "up")),
            matrix(f"{at}mlp.down_proj.weight", width, mlp),
            *(ones(f"{at}{m}_layernorm.weight") for m in ("input", "post_attention")),
        ]
    for name, tensors in shards.items():
        write_safetensors(folder / f"model-{name}.safetensors", tensors)
    weights = {t.name: f"model-{name}.safetensors" for name, tensors in shards.items() for t in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))


def bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_gguf(folder: Path) -> None:
    """Random blocks of q4_0 with scales that give weights of about ±0.02, and a vocabulary of made-up words."""
    width, mlp, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    layer = {f"attn_{m}": (width, width) for m in ("q", "k", "v", "output")}
    layer |= {"ffn_gate": (mlp, width), "ffn_up": (mlp, width), "ffn_down": (width, mlp)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary, width), "output": (vocabulary, width)}
    shapes["output_norm"] = (width,)
    for i in range(CONFIG["num_hidden_layers"]):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
        shapes |= {f"blk.{i}.{name}_norm": (width,) for name in ("attn", "ffn")}
    blocks = np.random.default_rng(0).integers(0, 256, (vocabulary * width // 32, 18), np.uint8)
    blocks[:, :2] = np.full(1, 0.004, np.float16).view(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / f"unfinished-{GGUF}", "llama")
    write_metadata(writer)
    data: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        matrix = len(shape) > 1
        data[name] = blocks[: shape[0] * shape[1] // 32].reshape(shape[0], -1) if matrix else np.ones(shape, np.float32)
        kind = gguf.GGMLQuantizationType.Q4_0 if matrix else None
        values = data[name]
        writer.add_tensor_info(f"{name}.weight", values.shape, values.dtype, values.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in data.values():
        writer.write_tensor_data(values)
    writer.close()
    (folder / f"unfinished-{GGUF}").rename(folder / GGUF)


def write_metadata(writer: gguf.GGUFWriter) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    tokens = ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens + [f"word{i}" for i in range(CONFIG["vocab_size"] - len(tokens))])
    writer.add_token_types([3, 3] + [1] * (CONFIG["vocab_size"] - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def measure(name: str, layers: int, count: int, steps: int) -> None:
    from tunesmith.dataset.store import Tokens
    from tunesmith.dataset.tokens import Sequence
    from tunesmith.sources.example import Example, Origin

    rng, nothing = np.random.default_rng(1), Example((), Origin(""))
    rows = [
        Sequence(rng.integers(3, 32000, 512).tolist(), [i >= 256 for i in range(512)], nothing) for _ in range(count)
    ]
    tokens, before, began = Tokens.of(rows), peak_memory(), time.monotonic()
    folder = find(name).folder
    found, took = peak_memory(), time.monotonic() - began
    arch = read_architecture(folder)
    below = arch.layers - layers
    began = time.monotonic()
    engine = open_engine(folder, arch, "auto", "bf16", below)
    engine.add_adapter(LoraShape(8, 16.0, 0.0, ("q_proj", "v_proj"), layers), 0)
    opened, opening = peak_memory(), time.monotonic() - began
    began = time.monotonic()
    plan = Plan("train", f"large {time.time()}", below, arch.width, [tokens[i][0] for i in range(count)], steps)
    running, prefix = plan.carry_out(engine, lambda: False), None
    while True:
        try:
            next(running)
        except StopIteration as end:
            prefix = end.value
            break
    filled, seconds = peak_memory(), time.monotonic() - began
    flops = 2.0 * 512 * count * below * (4 * arch.width**2 + 3 * arch.width * arch.mlp_width)
    began = time.monotonic()
    losses = [
        engine.step([make_batch(tokens, [i % count], prefix)], StepSettings(i + 1, 1e-4)).loss for i in range(steps)
    ]
    rate, step = flops / seconds / 1e9, (time.monotonic() - began) / steps
    memory = [f"{peak / 1e9:.2f}" for peak in (before, found, opened, filled, peak_memory())]
    print(f"finding the model   {took:.1f} s, of which the file's hash is most")
    print(f"opening             {opening:.1f} s")
    print(
        f"frozen layers       {below} of {arch.layers}: {512 * count:,} tokens in {seconds:.1f} s, {rate:.0f} GFLOP/s"
    )
    print(f"steps               {step:.1f} s each, of 1 row of 512 tokens; losses {losses}")
    print("peak memory, GB     {} before, {} found, {} opened, {} filled, {} at the end".format(*memory))


if __name__ == "__main__":
    main()
