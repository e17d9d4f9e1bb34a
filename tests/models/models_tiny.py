"""Tiny random models with a real tokenizer, as GGUF files, written from the original's side.

Names come from gguf's own tables and the weights are changed as llama.cpp's converter changes them, so
that the importer is not checked against itself.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tunesmith.models.pre_tokenizers import KNOWN
from tunesmith.models.safetensors_file import Tensor, write_safetensors
from tunesmith.models.verify import TEXTS
from tunesmith.models.weights import tensor_index

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}


@functools.cache
def byte_level_vocabulary(pre: str) -> dict[str, Any]:
    """Tokenizer metadata of a byte-level BPE trained on the texts that imports are checked with."""
    known = KNOWN[pre]
    tokenizer = Tokenizer(models.BPE())
    description: dict[str, Any] = known.pre_tokenizer or {}
    tokenizer.pre_tokenizer = _pre_tokenizer(description)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    tokens.append("<tool>")
    types = [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL) - 1) + [4]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "types": types,
        "merges": merges,
        "bos": 1,
        "eos": 2,
    }


def _pre_tokenizer(description: dict[str, Any]) -> Any:
    shell = Tokenizer(models.BPE())
    content = json.loads(shell.to_str())
    content["pre_tokenizer"] = description
    return Tokenizer.from_str(json.dumps(content)).pre_tokenizer


def sentence_piece_vocabulary(*, gemma: bool = False) -> dict[str, Any]:
    """Tokenizer metadata of a SentencePiece BPE: bytes, characters, and what occurs twice in the texts."""
    text = " ".join(TEXTS).replace(" ", "▁")
    text = text if gemma else text.replace("\n", "")
    pieces = {text[i : i + n] for n in range(2, 7) for i in range(len(text) - n)}
    chosen = sorted(p for p in pieces if text.count(p) > 1 and "\n\n" not in p and "▁▁" not in p)
    characters = sorted(set(text) - set("😀ق日"))  # these must fall back to bytes
    chosen = [p for p in chosen if not set(p) - set(characters)]
    np.random.default_rng(0).shuffle(chosen)
    tokens = ["<unk>", "<s>", "</s>", "<start_of_turn>", "<unused1>"]
    types = [2, 3, 3, 3, 5]
    user = ["  ", "   ", "\n\n"] if gemma else ["<tool>"]
    tokens += [*(f"<0x{i:02X}>" for i in range(256)), *user, *chosen, *characters]
    types += [6] * 256 + [4] * len(user) + [1] * (len(chosen) + len(characters))
    scores = [0.0] * 261 + [-1000.0] * len(user) + [-float(i) for i in range(len(chosen) + len(characters))]
    return {
        "model": "llama", "pre": "default", "tokens": tokens, "types": types, "scores": scores,
        "bos": 1, "eos": 2, "unk": 0, "space_prefix": not gemma,
    }  # fmt: skip


def tiny_model(arch: str, vocabulary: int, **more: Any) -> Any:
    """A random transformers model whose norms and biases all differ, so that mistakes show."""
    import torch
    import transformers as t

    config = COMMON | {"vocab_size": vocabulary} | more
    torch.manual_seed(3)
    if arch == "gemma3":
        config |= {"sliding_window": 8, "num_hidden_layers": 6, "query_pre_attn_scalar": 16}
        model = t.Gemma3ForCausalLM(t.Gemma3TextConfig(**config))
    else:
        kinds = {
            "llama": (t.LlamaForCausalLM, t.LlamaConfig),
            "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config),
            "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config),
        }
        model_class, config_class = kinds[arch]
        model = model_class(config_class(**config))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def write_gguf(path: Path, arch: str, model: Any, vocabulary: dict[str, Any], **changes: Any) -> Path:
    """The model as llama.cpp's converter would write it, in float32. ``changes``: ``quantize`` (a
    GGMLQuantizationType for matrices), ``blocks`` (how they are made), ``drop`` (tensor names left out),
    ``extra`` (tensors added, of ``extra_kind``)."""
    writer = gguf.GGUFWriter(path, arch)
    _write_shape(writer, arch, model.config)
    _write_vocabulary(writer, vocabulary)
    kept = [(n, d) for n, d in _tensors(arch, model) if n not in changes.get("drop", ())]
    for name, data in [*kept, *changes.get("extra", {}).items()]:
        kind = changes.get("quantize")
        if kind is not None and data.ndim == 2:
            blocks = changes["blocks"](kind, data) if "blocks" in changes else gguf.quants.quantize(data, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(
                name, data, raw_dtype=changes.get("extra_kind") if name in changes.get("extra", ()) else None
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_safetensors(folder: Path) -> Path:
    """An imported folder that transformers can read too: its weights written out, as they are read."""
    tensors = [
        Tensor(name, stored.dtype, stored.shape, lambda s=stored: (chunk.copy() for chunk in s.chunks()))
        for name, stored in tensor_index(folder).items()
    ]
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def _write_shape(writer: gguf.GGUFWriter, arch: str, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if arch == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_rope_dimension_count(16)


def _write_vocabulary(writer: gguf.GGUFWriter, v: dict[str, Any]) -> None:
    writer.add_tokenizer_model(v["model"])
    writer.add_tokenizer_pre(v["pre"])
    writer.add_token_list(v["tokens"])
    writer.add_token_types(v["types"])
    if "merges" in v:
        writer.add_token_merges(v["merges"])
    if "scores" in v:
        writer.add_token_scores(v["scores"])
        writer.add_add_space_prefix(v["space_prefix"])
    writer.add_bos_token_id(v["bos"])
    writer.add_eos_token_id(v["eos"])
    writer.add_chat_template("{{ messages[0]['content'] }}")


def _tensors(arch: str, model: Any) -> list[tuple[str, np.ndarray]]:
    kinds = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gemma3": "GEMMA3"}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kinds[arch]], model.config.num_hidden_layers)
    found: list[tuple[str, np.ndarray]] = []
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        data = weight.float().numpy()
        if arch == "llama" and "q_proj" in name:
            data = permute(data, model.config.num_attention_heads)
        if arch == "llama" and "k_proj" in name:
            data = permute(data, model.config.num_key_value_heads)
        if arch == "gemma3" and name.endswith("norm.weight"):
            data = data + 1
        found.append((str(names.get_name(name, try_suffixes=(".weight", ".bias"))), data))
    rope = model.config.rope_parameters
    if rope.get("rope_type") == "llama3":
        plain = rope["rope_theta"] ** (-np.arange(0, 16, 2) / 16)
        turned = model.model.rotary_emb.inv_freq.numpy()
        found.append(("rope_freqs.weight", (plain / turned).astype(np.float32)))
    return found


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
