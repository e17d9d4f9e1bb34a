"""A whole tiny chat model that the tests write themselves: byte tokens, ChatML, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<think>")


def tokenizer() -> Tokenizer:
    """One token a byte, and a few special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL[:-1]])
    made.add_tokens([AddedToken(SPECIAL[-1], special=False)])
    return made


def write_chat(folder: Path, template: str | None = CHATML, **config: object) -> Path:
    """Only what a `ChatFormat` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    values: dict[str, object] = {"eos_token": "<|im_end|>", "bos_token": None, **config}
    if template is not None:
        values["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def write_model(folder: Path, layers: int = 2, width: int = 32) -> Path:
    """A llama of two layers over those tokens, seeded."""
    write_chat(folder)
    vocabulary = 256 + len(SPECIAL)
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.15).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(vocabulary, width), "model.norm.weight": np.ones(width, np.float32)}
    for i in range(layers):
        at = f"model.layers.{i}."
        for name, out, size in (("self_attn.q_proj", width, width), ("self_attn.k_proj", width // 2, width),
                                ("self_attn.v_proj", width // 2, width), ("self_attn.o_proj", width, width),
                                ("mlp.gate_proj", 2 * width, width), ("mlp.up_proj", 2 * width, width),
                                ("mlp.down_proj", width, 2 * width)):  # fmt: skip
            tensors[f"{at}{name}.weight"] = weight(out, size)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{norm}.weight"] = np.ones(width, np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "hidden_size": width,
        "intermediate_size": 2 * width, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "max_position_embeddings": 512, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_rows(path: Path, count: int = 60) -> Path:
    """Sums in words: enough for a tiny model to lower its loss."""
    rows = [{"prompt": f"{i} + {i % 7}?", "completion": f"{i + i % 7}"} for i in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def write_recipe(path: Path, model: Path, rest: str) -> Path:
    """To train the model on rows.jsonl beside it; ``rest`` goes on in [data]."""
    head = f'[model]\nname = "{model}"\nengine = "torch"\nprecision = "fp32"\n[data]\nsources = ["rows.jsonl"]\n'
    path.write_text(head + rest)
    return path
