"""Every exported file is loaded by llama.cpp, and is the model and the tokenizer that it was made from."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from models_tiny import COMMON, byte_level_vocabulary, sentence_piece_vocabulary, tiny_model
from models_tiny import write_gguf as write_reference

from tunesmith.errors import ModelError, StorageError
from tunesmith.export import gguf_write
from tunesmith.export.gguf_vocabulary import _stored_pieces, vocabulary
from tunesmith.export.gguf_write import write_gguf
from tunesmith.export.weights import Weights
from tunesmith.models.find import find, starter_file
from tunesmith.models.gguf_file import Gguf, read_gguf
from tunesmith.models.gguf_import import import_gguf
from tunesmith.models.gguf_tokenizer import tokenizer_files
from tunesmith.models.llamacpp import ask_llamacpp
from tunesmith.models.pre_tokenizers import KNOWN
from tunesmith.models.verify import TEXTS, compare_logits, verify_import

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
ROUND_TRIPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "smollm", {"tie_word_embeddings": True}),
    "llama3": ("llama", "llama-bpe", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False}),
    "biased-llama": ("llama", "sentencepiece", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", "qwen2", {"tie_word_embeddings": False}),
    "gemma3": ("gemma3", "gemma", {}),
}
GEMMA3_TWO = ["sliding_attention", "full_attention"] * 2
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0],
    "long_factor": [1.0, 1.2, 1.9, 2.5, 4.0, 5.5, 7.0, 9.0],
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "linear-llama": ("Llama", "smollm", {"rope_parameters": LINEAR_ROPE, "tie_word_embeddings": True}),
    "mistral": ("Mistral", "sentencepiece", {"sliding_window": None}),
    "gemma2": ("Gemma2", "gemma", {"sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 4}),
    "gemma3-every-second": (
        "Gemma3",
        "gemma",
        {"sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 4, "layer_types": GEMMA3_TWO},
    ),
    "phi3": ("Phi3", "sentencepiece", {"sliding_window": None, "pad_token_id": 0}),
    "phi3-short": (
        "Phi3",
        "sentencepiece",
        {
            "rope_parameters": LONG | {"original_max_position_embeddings": 1024},
            "original_max_position_embeddings": 1024,
            "max_position_embeddings": 4096,
            "pad_token_id": 0,
            "initializer_range": 0.15,
        },
    ),
}


def vocabulary_of(kind: str) -> dict[str, Any]:
    if kind in ("sentencepiece", "gemma"):
        return sentence_piece_vocabulary(gemma=kind == "gemma")
    return byte_level_vocabulary(kind)


def write_tokenizer(folder: Path, kind: str, **more: Any) -> Path:
    """The files of a tiny tokenizer of this kind."""
    v = vocabulary_of(kind)
    keys = {"model": "model", "pre": "pre", "tokens": "tokens", "types": "token_type", "merges": "merges",
            "scores": "scores", "space_prefix": "add_space_prefix", "bos": "bos_token_id", "eos": "eos_token_id",
            "unk": "unknown_token_id"}  # fmt: skip
    metadata = {f"tokenizer.ggml.{name}": v[key] for key, name in keys.items() if key in v}
    metadata |= {"general.architecture": "llama", "llama.context_length": 512, **more}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_files(Gguf(folder / "tiny.gguf", metadata, {})).items():
        (folder / name).write_text(json.dumps(content))
    return folder


def write_family(folder: Path, name: str) -> Any:
    """A tiny model in Hugging Face's layout; the transformers model it is."""
    import torch
    import transformers as t

    family, kind, more = FAMILIES[name]
    config_class = getattr(t, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    size = len(vocabulary_of(kind)["tokens"])
    torch.manual_seed(3)
    model = getattr(t, f"{family}ForCausalLM")(config_class(**COMMON | {"vocab_size": size} | more)).eval()
    with torch.no_grad():  # as they are made, norms are all equal: mistakes would not show
        for parameter, weight in model.named_parameters():
            if "norm" in parameter:
                weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    write_tokenizer(folder, kind)
    return model


def logits_of(model: Any) -> Any:
    import torch

    def logits(ids: Any) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([list(ids)])).logits[0].float().numpy()

    return logits


def floats(gguf: Gguf, name: str) -> np.ndarray:
    from gguf import dequantize

    tensor = gguf.tensors[name]
    return np.asarray(dequantize(gguf.rows(tensor), tensor.type)).reshape(tensor.shape)


# -- there and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_gguf_to_folder_to_gguf_keeps_tensors_and_metadata(name: str, tmp_path: Path) -> None:
    arch, kind, more = ROUND_TRIPS[name]
    v = vocabulary_of(kind)
    model = tiny_model(arch, len(v["tokens"]), **more)
    before = read_gguf(write_reference(tmp_path / "before.gguf", arch, model, v))
    import_gguf(before.path, tmp_path / "hf")
    write_gguf(Weights(tmp_path / "hf"), tmp_path / "hf", tmp_path / "after.gguf", "f32")
    after = read_gguf(tmp_path / "after.gguf")
    assert {n: t.shape for n, t in after.tensors.items()} == {n: t.shape for n, t in before.tensors.items()}
    for tensor in before.tensors:
        np.testing.assert_allclose(floats(after, tensor), floats(before, tensor), atol=2e-7)
    assert_same_metadata(before, after)
    write_gguf(Weights(tmp_path / "hf"), tmp_path / "hf", tmp_path / "f16.gguf", "f16")
    check = verify_import(tmp_path / "f16.gguf", tmp_path / "hf", logits_of(model))
    assert check.same_tokens, check.different
    assert check.kl < 1e-5  # measured: 2e-6 to 8e-6
    assert verify_import(after.path, tmp_path / "hf", logits_of(model)).kl < 1e-5


def assert_same_metadata(before: Gguf, after: Gguf) -> None:
    """What stood there stands there again, but for names and for what has no effect on ids."""
    free = {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}
    free |= {"qwen2.rope.dimension_count", "qwen3.rope.dimension_count"}  # which llama.cpp's converter leaves out
    for key, value in before.metadata.items():
        if key not in free and not key.startswith("general."):
            assert after.metadata[key] == value, key
    old, new = (g.metadata["tokenizer.ggml.token_type"] for g in (before, after))
    assert [(a, b) for a, b in zip(old, new, strict=True) if a != b and (a, b) != (5, 1)] == []


# -- every family ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_runs_every_family_as_transformers_does(name: str, tmp_path: Path) -> None:
    model = write_family(tmp_path / "hf", name)
    for kind, limit in (("f32", 4e-6), ("f16", 1e-5)):  # measured: to 2.6e-6, to 9e-6
        write_gguf(Weights(tmp_path / "hf"), tmp_path / "hf", tmp_path / f"{kind}.gguf", kind)
        check = verify_import(tmp_path / f"{kind}.gguf", tmp_path / "hf", logits_of(model))
        assert check.same_tokens, check.different
        assert check.kl < limit, kind


def test_phi3s_long_factors_are_used_in_long_texts(tmp_path: Path) -> None:
    FAMILIES["phi3-long"] = ("Phi3", "sentencepiece", FAMILIES["phi3-short"][2] | {
        "original_max_position_embeddings": 256, "max_position_embeddings": 1024,
        "rope_parameters": LONG | {"original_max_position_embeddings": 256},
    })  # fmt: skip
    model = write_family(tmp_path / "hf", "phi3-long")
    del FAMILIES["phi3-long"]
    write_gguf(Weights(tmp_path / "hf"), tmp_path / "hf", tmp_path / "f32.gguf", "f32")
    ids = np.random.default_rng(2).integers(300, 400, 400).tolist()
    (found,) = ask_llamacpp(tmp_path / "f32.gguf", [ids])
    assert found.logits is not None
    assert compare_logits(found.logits, logits_of(model)(ids))[0].max() < 1e-4


def test_where_llama_cpp_has_no_windows_the_file_is_exact_up_to_the_window(tmp_path: Path) -> None:
    FAMILIES["windowed"] = ("Mistral", "sentencepiece", {"sliding_window": 32})
    model = write_family(tmp_path / "hf", "windowed")
    del FAMILIES["windowed"]
    write_gguf(Weights(tmp_path / "hf"), tmp_path / "hf", tmp_path / "f32.gguf", "f32")
    assert read_gguf(tmp_path / "f32.gguf").get("{arch}.context_length") == 32
    ids = list(range(300, 332))
    (found,) = ask_llamacpp(tmp_path / "f32.gguf", [ids])
    assert found.logits is not None
    assert compare_logits(found.logits, logits_of(model)(ids))[0].max() < 1e-4


def test_the_starter_comes_back_as_itself(tmp_path: Path) -> None:
    model, before = find("starter"), read_gguf(starter_file())
    write_gguf(Weights(model.folder), model.folder, tmp_path / "f16.gguf", "f16")
    after = read_gguf(tmp_path / "f16.gguf")
    assert after.tensors.keys() == before.tensors.keys()
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.29.attn_k.weight", "blk.7.ffn_down.weight"):
        np.testing.assert_array_equal(floats(after, name), floats(before, name).astype(np.float16))
    kept = [k for k in before.metadata if k.startswith(("llama.", "tokenizer."))]
    kept.remove("tokenizer.ggml.add_space_prefix")  # of SentencePiece only: a byte-level tokenizer has none
    assert {k: after.metadata[k] for k in kept} == {k: before.metadata[k] for k in kept}


def test_the_starter_runs_in_llama_cpp_as_it_was_trained(tmp_path: Path) -> None:
    from tunesmith.engines.torch_engine import TorchEngine
    from tunesmith.models.architecture import read_architecture

    folder = find("starter").folder
    engine = TorchEngine(folder, read_architecture(folder), "fp32")
    for kind, limit in (("f16", 1e-5), ("q8_0", 0.02), ("q4_k_m", 0.3)):  # on all texts: 5e-6, 0.008, 0.11
        write_gguf(Weights(folder), folder, tmp_path / f"{kind}.gguf", kind)
        check = verify_import(tmp_path / f"{kind}.gguf", folder, engine.logits, TEXTS[:1])
        assert check.same_tokens, check.different
        assert check.kl < limit, kind
        (tmp_path / f"{kind}.gguf").unlink()


# -- the vocabulary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [name for name in KNOWN if name != "default"])
def test_every_known_pre_tokenizer_is_found_again_by_what_it_does(pre: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, pre)
    name = str(vocabulary(tmp_path, 300)["tokenizer.ggml.pre"])
    assert KNOWN[name] == KNOWN[pre] or (name, pre) == ("falcon3", "llama-bpe")


def test_a_pre_tokenizer_that_llama_cpp_does_not_know_is_refused_with_what_was_compared(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "qwen2")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\s+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"known here.*\\\\w\+.*were compared with those of gpt-2, smollm"):
        vocabulary(tmp_path, 300)


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece"])
def test_other_kinds_of_tokenizer_are_refused(kind: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    model = models.Unigram([("a", -1.0)], 0) if kind == "Unigram" else models.WordPiece({"a": 0}, unk_token="a")
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=f"kind {kind} cannot"):
        vocabulary(tmp_path, 1)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        vocabulary(tmp_path, 1)


def test_there_is_one_token_for_each_row_of_the_embedding(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "smollm")
    count = len(byte_level_vocabulary("smollm")["tokens"])
    more, fewer = vocabulary(tmp_path, count + 3), vocabulary(tmp_path, count - 1)
    assert more["tokenizer.ggml.tokens"][-3:] == [f"[PAD{count + i}]" for i in range(3)]
    assert more["tokenizer.ggml.token_type"][-3:].tolist() == [5, 5, 5]
    assert len(fewer["tokenizer.ggml.tokens"]) == count - 1


def test_the_end_of_an_answer_that_llama_cpp_does_not_know_is_named(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "smollm")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0, 1]}))
    keys = vocabulary(tmp_path, 300)
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.eot_token_id"] == 1  # <|im_start|>; <|endoftext|> is known by its text
    assert "tokenizer.ggml.eom_token_id" not in keys


@pytest.mark.parametrize("rstrip", [False, True])
def test_phi3s_control_tokens_swallow_spaces_where_the_folder_says_so(rstrip: bool, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = tmp_path / "My-Phi-3-mini"
    write_family(folder, "phi3")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["<|endoftext|>"] = vocab.pop("<unused1>")
    content["added_tokens"].append({**content["added_tokens"][1], "id": 4, "content": "<|endoftext|>"})
    for token in content["added_tokens"]:
        token["rstrip"] = rstrip and token["content"] in ("<start_of_turn>", "</s>")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    write_gguf(Weights(folder), folder, tmp_path / "f16.gguf", "f16")
    text = "<start_of_turn> user\n hello</s> <s> hello <start_of_turn>\n\nhello"
    (found,) = ask_llamacpp(tmp_path / "f16.gguf", [text], logits=False)
    assert found.ids == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def test_merges_that_no_scores_can_give_need_the_tokenizer_model(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "sentencepiece")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    merges = content["model"]["merges"]
    content["model"]["merges"] = merges[:100] + merges[101:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"own tokenizer\.model"):
        vocabulary(tmp_path, 300)


def test_a_sentence_piece_model_is_read_as_its_own_package_reads_it(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_writer=written, vocab_size=600, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["<tool>"],
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    path = tmp_path / "tokenizer.model"
    path.write_bytes(written.getvalue())
    pieces = _stored_pieces(path)
    assert [p.text for p in pieces] == [processor.id_to_piece(i) for i in range(len(processor))]
    assert [p.score for p in pieces] == pytest.approx([processor.get_score(i) for i in range(len(processor))])
    assert [p.type == 3 for p in pieces] == [processor.is_control(i) for i in range(len(processor))]
    assert [p.type == 6 for p in pieces] == [processor.is_byte(i) for i in range(len(processor))]
    path.write_bytes(written.getvalue()[:5000])
    with pytest.raises(ModelError, match="no SentencePiece model"):
        _stored_pieces(path)


def test_scores_come_from_the_tokenizer_model_where_there_is_one(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "sentencepiece")
    v = sentence_piece_vocabulary()
    (tmp_path / "tokenizer.model").write_bytes(sentence_piece_model(v))
    keys = vocabulary(tmp_path, len(v["tokens"]))
    assert keys["tokenizer.ggml.scores"][5:261].tolist() == v["scores"][5:261]
    assert keys["tokenizer.ggml.scores"][262:].tolist() == v["scores"][262:]
    assert keys["tokenizer.ggml.token_type"].tolist() == v["types"]
    assert keys["tokenizer.ggml.add_space_prefix"] is True


def sentence_piece_model(v: dict[str, Any]) -> bytes:
    """A tokenizer.model with these pieces, as protobuf writes it."""
    import struct

    def field(number: int, data: bytes) -> bytes:
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return bytes([number << 3 | 2]) + size + data

    pieces = (
        field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind])
        for text, score, kind in zip(v["tokens"], v["scores"], v["types"], strict=True)
    )
    return b"".join(field(1, piece) for piece in pieces) + field(2, bytes([3 << 3, 2]))


# -- the file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "hf"
    write_family(folder, "linear-llama")
    return folder


def test_the_same_input_gives_the_same_bytes_and_progress_ends_at_one(llama: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    for name in ("one", "two"):
        write_gguf(Weights(llama), llama, tmp_path / name, "q4_k_m", on_progress=seen.append,
                   provenance={"general.license": "apache-2.0", "tunesmith.run": "demo"})  # fmt: skip
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert seen[-1] == 1.0
    assert sorted(seen[: len(seen) // 2]) == seen[: len(seen) // 2]
    metadata = read_gguf(tmp_path / "one").metadata
    assert (metadata["general.license"], metadata["tunesmith.run"]) == ("apache-2.0", "demo")
    assert metadata["general.file_type"] == 15
    with pytest.raises(ValueError, match="tokenizer"):
        write_gguf(Weights(llama), llama, tmp_path / "one", "f16", provenance={"tokenizer.ggml.pre": "x"})


def test_the_gguf_package_reads_the_file_too(llama: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    write_gguf(Weights(llama), llama, tmp_path / "f16.gguf", "f16")
    reader, ours = GGUFReader(tmp_path / "f16.gguf"), read_gguf(tmp_path / "f16.gguf")
    assert [(t.name, int(t.data_offset)) for t in reader.tensors] == [(t.name, t.offset) for t in ours.tensors.values()]
    assert reader.fields["llama.rope.scaling.type"].contents() == "linear"


def test_a_disk_that_fills_leaves_the_older_file_as_it_was(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "model.gguf"
    target.write_bytes(b"older")
    monkeypatch.setattr(gguf_write, "pack", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_gguf(Weights(llama), llama, target, "f16")
    assert target.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "mixtral"}, "'mixtral' cannot be written as GGUF here; those of llama, mistral"),
        ({"model_type": "qwen2", "rope_parameters": LLAMA3_ROPE}, "stretched as in Llama 3"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 24}, "query_pre_attn_scalar"),
        ({"model_type": "gemma2"}, "'query_pre_attn_scalar' is missing"),
        ({"num_hidden_layers": 3}, r"lacks the tensor that a GGUF calls blk\.2"),
        ({"tie_word_embeddings": False}, r"output\.weight"),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused(
    llama: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((llama / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=sentence):
        write_gguf(Weights(llama), folder, tmp_path / "model.gguf", "f16")
    assert not (tmp_path / "model.gguf").exists()


def test_weights_that_16_bits_cannot_hold_are_named(llama: Path, tmp_path: Path) -> None:
    class Large(Weights):
        def rows(self, name: str, start: int, stop: int) -> np.ndarray:
            return super().rows(name, start, stop) + np.float32(1e6 if name.endswith("1.mlp.up_proj.weight") else 0)

    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight.*bf16"):
        write_gguf(Large(llama), llama, tmp_path / "model.gguf", "f16")


SEVEN_B = """
import json, resource, sys
from pathlib import Path
import numpy as np
from tunesmith.export import gguf_write
from tunesmith.export.gguf_write import write_gguf

folder, target = Path(sys.argv[1]), Path(sys.argv[2])
row = np.random.default_rng(0).standard_normal(11008).astype(np.float32)
layer = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (4096, 4096), "self_attn.v_proj": (4096, 4096),
         "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (11008, 4096), "mlp.up_proj": (11008, 4096),
         "mlp.down_proj": (4096, 11008), "input_layernorm": (4096,), "post_attention_layernorm": (4096,)}
shapes = {"model.embed_tokens.weight": (8000, 4096), "model.norm.weight": (4096,)}
shapes |= {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}

class Random:
    def names(self): return list(shapes)
    def shape(self, name): return shapes[name]
    def rows(self, name, start, stop):
        columns = shapes[name][1:]
        return np.tile(row[: columns[0]], (stop - start, 1)) if columns else row[start:stop].copy()

write_gguf(Random(), folder, target, "q8_0")
status = Path("/proc/self/status")  # where there is one: getrusage counts the parent's memory too
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else peak)
"""


def test_layers_of_a_7b_need_the_memory_of_a_few_slices(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "hf", "smollm")
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4096, "intermediate_size": 11008,
              "num_attention_heads": 32, "vocab_size": 8000, "tie_word_embeddings": True}  # fmt: skip
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", SEVEN_B, str(tmp_path / "hf"), str(tmp_path / "model.gguf")]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "model.gguf").stat().st_size > 240_000_000
    assert int(child.stdout) < 400_000_000  # measured: 180 MB; as float32 the layer alone has 800
    (tmp_path / "model.gguf").unlink()
