"""A GGUF of each family becomes a folder that is the same model, with the same tokenizer."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from models_tiny import byte_level_vocabulary, sentence_piece_vocabulary, tiny_model, with_safetensors, write_gguf

from tunesmith.errors import ModelError, StorageError
from tunesmith.models import gguf_import, gguf_tensors
from tunesmith.models.architecture import read_architecture
from tunesmith.models.gguf_config import llama3_factors, llama3_scaling
from tunesmith.models.gguf_import import LINK, SUM, import_gguf, link_weights
from tunesmith.models.gguf_tensors import hf_name
from tunesmith.models.pre_tokenizers import KNOWN
from tunesmith.models.verify import verify_import
from tunesmith.models.weights import tensor_index

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "smollm", {"tie_word_embeddings": True}),
    "llama3": ("llama", "llama-bpe", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False}),
    "biased-llama": ("llama", "sentencepiece", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", "qwen2", {"tie_word_embeddings": False}),
    "gemma3": ("gemma3", "gemma", {}),
}


def vocabulary_of(kind: str) -> dict[str, Any]:
    if kind in ("sentencepiece", "gemma"):
        return sentence_piece_vocabulary(gemma=kind == "gemma")
    return byte_level_vocabulary(kind)


def logits_of(model: Any) -> Any:
    import torch

    def logits(ids: Any) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([list(ids)])).logits[0].float().numpy()

    return logits


@pytest.fixture(scope="module", params=CASES)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """The original model, its GGUF, and the imported folder."""
    arch, kind, more = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    vocabulary = vocabulary_of(kind)
    model = tiny_model(arch, len(vocabulary["tokens"]), **more)
    path = write_gguf(folder / "tiny.gguf", arch, model, vocabulary)
    import_gguf(path, folder / "hf")
    return model, path, folder / "hf"


def test_the_imported_folder_gives_the_logits_of_the_original(imported: tuple[Any, Path, Path]) -> None:
    from transformers import AutoModelForCausalLM

    model, _, folder = imported
    again = AutoModelForCausalLM.from_pretrained(with_safetensors(folder)).eval()
    ids = np.random.default_rng(0).integers(0, 300, 40)
    assert np.abs(logits_of(model)(ids)).max() > 1  # wide enough to show a difference
    np.testing.assert_allclose(logits_of(again)(ids), logits_of(model)(ids), atol=2e-5)


def test_llama_cpp_gives_the_same_ids_and_logits(imported: tuple[Any, Path, Path]) -> None:
    model, path, folder = imported
    check = verify_import(path, folder, logits_of(model))
    assert check.different == ()
    assert check.same_tokens
    assert check.tokens > 300
    assert check.kl < 1e-4  # measured: 5e-7 to 2.5e-6
    assert check.top1 > 0.97


def test_every_tensor_is_there_under_its_name_and_the_shape_is_known(
    imported: tuple[Any, Path, Path],
) -> None:
    model, _, folder = imported
    head = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(tensor_index(folder)) == set(model.state_dict()) - head
    assert read_architecture(folder).layers == model.config.num_hidden_layers


def test_the_tokenizer_files_carry_special_tokens_and_template(imported: tuple[Any, Path, Path]) -> None:
    from transformers import AutoTokenizer

    _, _, folder = imported
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages[0]['content'] }}"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    assert 2 in json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    text = "naïve café 😀 2024  done"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids).strip() == text


# One name of each kind; the first test has smollm, llama-bpe and qwen2.
KINDS = {id(kind): name for name, kind in KNOWN.items() if name not in ("smollm", "llama-bpe", "qwen2")}


@pytest.mark.parametrize("pre", sorted(KINDS.values()))
def test_every_known_pre_tokenizer_cuts_text_as_llama_cpp_does(pre: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    from tunesmith.models.llamacpp import ask_llamacpp
    from tunesmith.models.verify import TEXTS

    vocabulary = byte_level_vocabulary(pre)
    model = tiny_model("llama", len(vocabulary["tokens"]))
    path = write_gguf(tmp_path / "tiny.gguf", "llama", model, vocabulary)
    import_gguf(path, tmp_path / "hf")
    tokenizer = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    for text, reference in zip(TEXTS, ask_llamacpp(path, TEXTS, logits=False), strict=True):
        assert tokenizer.encode(text).ids == reference.ids


FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")


def blocks_of(kind: gguf.GGMLQuantizationType, weights: np.ndarray) -> np.ndarray:
    """Bytes of matrices as this type: by the `gguf` package where it can, else random ones with small scales."""
    try:
        return gguf.quants.quantize(weights, kind)
    except NotImplementedError:
        items, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.random.default_rng(weights.size).integers(0, 256, (weights.size // items, size), np.uint8)
        scales = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}.get(kind.name, [0])
        for at in scales:
            blocks[:, at + 1] &= 0x9F  # of the exponent, so that what comes out is below 1
            blocks[:, at + 1] |= 0x10
        return blocks.reshape(len(weights), -1)


def written_before(tensor: Any, heads: int, gemma: bool) -> tuple[str, np.ndarray]:
    """dtype and numbers of one tensor as the `gguf` package's own numpy reads it: llama's rows of q and k put back in
    order, 1 taken from Gemma's norms, 16 bits for what is quantized."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if heads:
        values = values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if gemma and tensor.name.endswith("norm.weight"):
        values = values - np.float32(1)
    kind = FLOATS.get(tensor.tensor_type.name, "F16")
    if kind == "BF16":
        return kind, (values.view(np.uint32) >> 16).astype(np.uint16)
    return kind, values if kind == "F32" else values.astype(np.float16)


def assert_as_before(path: Path, folder: Path, config: Any, llama: bool, gemma: bool) -> None:
    """Every tensor of the folder, whole and in slices, is bit for bit what it should be."""
    index, tensors = tensor_index(folder), [t for t in gguf.GGUFReader(path).tensors if "rope" not in t.name]
    assert len(index) == len(tensors)
    for tensor in tensors:
        name = tensor.name
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
        turned = next((heads[m] for m in heads if f"attn_{m}." in name), 0) if llama else 0
        dtype, expected = written_before(tensor, turned, gemma)
        stored = index[str(hf_name(name, gemma=gemma))]
        assert (stored.dtype, stored.shape) == (dtype, expected.shape), name
        chunks = np.concatenate([chunk.copy() for chunk in stored.chunks()])
        if platform.machine() == "x86_64":
            assert chunks.tobytes() == expected.tobytes(), name
        elif expected.dtype != np.uint16:  # elsewhere a compiler may round a product and a sum at once
            np.testing.assert_array_max_ulp(chunks, expected, 1)
        for start, stop in ((0, len(chunks)), (1, 3), (5, 23), (len(chunks) - 1, len(chunks) + 9), (2, 2)):
            np.testing.assert_array_equal(stored.rows(start, stop), chunks[start:stop])
            np.testing.assert_array_equal(stored.rows(start, stop, scratch=True), chunks[start:stop])


def test_every_tensor_is_read_as_the_gguf_package_reads_it(imported: tuple[Any, Path, Path]) -> None:
    model, path, folder = imported
    kind = type(model).__name__
    assert_as_before(path, folder, model.config, kind.startswith("Llama"), kind.startswith("Gemma"))


@pytest.mark.parametrize("kind", [*BLOCKS, "BF16", "F16"])
def test_quantized_tensors_become_half_floats_and_others_keep_their_bytes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = byte_level_vocabulary("smollm")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 16}  # a row is a block of 256
    model = tiny_model("llama", len(vocabulary["tokens"]), tie_word_embeddings=True, **sizes)
    number = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "q.gguf", "llama", model, vocabulary, quantize=number, blocks=blocks_of)
    import_gguf(path, tmp_path / "hf")
    monkeypatch.setattr(gguf_tensors, "CHUNK_ITEMS", 20_000)
    monkeypatch.setattr(gguf_tensors, "PIECE_ITEMS", 3_000)
    up = tensor_index(tmp_path / "hf")["model.layers.0.mlp.up_proj.weight"]
    assert up.dtype == FLOATS.get(kind, "F16")
    assert max(chunk.size for chunk in up.chunks()) <= 20_000
    assert_as_before(path, tmp_path / "hf", model.config, llama=True, gemma=False)


def test_what_cannot_be_read_from_blocks_is_refused_at_the_import(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    values = gguf.quants.quantize(np.ones((2, 32), np.float32), kind)
    path = damaged(
        tmp_path, drop=["output_norm.weight"], extra={"output_norm.weight": values.reshape(-1)}, extra_kind=kind
    )
    assert "output_norm.weight is stored as Q8_0, which cannot be read" in refused(path, tmp_path / "hf")


def test_numbers_that_are_no_half_floats_are_named_when_they_are_read(tmp_path: Path) -> None:
    def infinite(kind: gguf.GGMLQuantizationType, weights: np.ndarray) -> np.ndarray:
        blocks = gguf.quants.quantize(weights, kind)
        blocks[3, :2] = np.full(1, np.inf, np.float16).view(np.uint8)
        return blocks

    path = damaged(tmp_path, quantize=gguf.GGMLQuantizationType.Q8_0, blocks=infinite)
    import_gguf(path, tmp_path / "hf")
    up = tensor_index(tmp_path / "hf")["model.layers.1.mlp.up_proj.weight"]
    for read in (lambda: list(up.chunks()), lambda: up.rows(0, 9)):
        with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight holds numbers that are no 16-bit floats"):
            read()


def lost(folder: Path, says: str) -> None:
    with pytest.raises(ModelError, match=says) as error:
        tensor_index(folder)
    assert "\n" not in str(error.value)


def test_a_gguf_that_was_moved_cut_or_changed_after_the_import_is_named(tmp_path: Path) -> None:
    path, folder = damaged(tmp_path), tmp_path / "hf"
    import_gguf(path, folder)
    assert sorted(p.name for p in folder.iterdir() if p.suffix in (".gguf", ".safetensors")) == [LINK]
    whole = path.read_bytes()
    opened = tensor_index(folder)["model.layers.1.mlp.down_proj.weight"]
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    lost(folder, r"bad\.gguf was changed after it was imported")
    path.write_bytes(whole[:-60])
    lost(folder, r"bad\.gguf is cut short")
    path.write_bytes(whole[:9000])
    with pytest.raises(ModelError, match=r"bad\.gguf was cut short while it was read"):
        opened.rows(0, 5)
    path.rename(tmp_path / "moved.gguf")
    lost(folder, r"bad\.gguf was moved or deleted; give the model again")
    with pytest.raises(ModelError, match=r"bad\.gguf was moved or deleted"):
        list(opened.chunks())
    (folder / SUM).unlink()
    (tmp_path / "moved.gguf").write_bytes(whole)
    link_weights(folder, tmp_path / "moved.gguf")
    lost(folder, f"lacks its {SUM}")


@pytest.mark.parametrize(
    ("factor", "high", "original"), [(8.0, 4.0, 8192), (32.0, 4.0, 8192), (4.0, 8.0, 4096), (16.0, 3.0, 2048)]
)
def test_llama3_scaling_is_solved_from_its_factors(factor: float, high: float, original: int) -> None:
    config = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": high, "original_max_position_embeddings": original,
    }  # fmt: skip
    factors = llama3_factors(config, 500000.0, 128).astype(np.float32)
    assert llama3_scaling(factors, 500000.0, 128) == config


def damaged(tmp_path: Path, arch: str = "llama", **changes: Any) -> Path:
    vocabulary = changes.pop("vocabulary", None) or byte_level_vocabulary("smollm")
    model = tiny_model(arch, len(vocabulary["tokens"]), tie_word_embeddings=True)
    return write_gguf(tmp_path / "bad.gguf", arch, model, vocabulary, **changes)


def refused(path: Path, target: Path) -> str:
    with pytest.raises(ModelError) as error:
        import_gguf(path, target)
    assert "\n" not in str(error.value)
    assert [p.name for p in target.parent.iterdir() if p.name.startswith(".") or p == target] == []
    return str(error.value)


def test_what_is_not_a_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\3\4 some zip")
    assert "is not a GGUF file" in refused(path, tmp_path / "hf")
    path.write_bytes(b"")
    assert "is not a GGUF file" in refused(path, tmp_path / "hf")
    assert "cannot be read" in refused(tmp_path / "none.gguf", tmp_path / "hf")


def test_a_gguf_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = damaged(tmp_path).read_bytes()
    path = tmp_path / "short.gguf"
    for length in (4, 6, 11, 30, 200, 2000, 9000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        assert "cut short" in refused(path, tmp_path / "hf")


def test_a_damaged_header_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    whole = damaged(tmp_path).read_bytes()
    path = tmp_path / "wrong.gguf"
    for at in range(4, 400, 7):
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 : 20000])
        refused(path, tmp_path / "hf")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "'yarn'"),
        ({"split.count": 2}, "one of several parts"),
        ({"llama.rope.dimension_count": 8}, "turns 8 of 16"),
        ({"tokenizer.ggml.pre": "martian"}, "'martian'"),
        ({"tokenizer.ggml.model": "t5"}, "'t5'"),
    ],
)
def test_what_cannot_be_imported_exactly_is_named(keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "changed.gguf"
    source = gguf.GGUFReader(damaged(tmp_path))
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture" and key not in keys:
            array = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], array)
    for key, value in keys.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert says in refused(path, tmp_path / "hf")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "phi3")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "'phi3' are not supported" in refused(tmp_path / "x.gguf", tmp_path / "hf")


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    target = tmp_path / "hf"
    path = damaged(tmp_path, drop=["blk.1.ffn_up.weight"])
    assert "lacks the tensor model.layers.1.mlp.up_proj.weight" in refused(path, target)
    path = damaged(tmp_path, extra={"blk.0.ssm_a.weight": np.zeros(4, np.float32)})
    assert "blk.0.ssm_a.weight, which is not supported" in refused(path, target)
    path = damaged(tmp_path, drop=["output_norm.weight"], extra={"output_norm.weight": np.ones(9, np.float32)})
    assert "model.norm.weight has the shape (9,)" in refused(path, target)


def test_damaged_vocabularies_are_refused(tmp_path: Path) -> None:
    whole, target = sentence_piece_vocabulary(), tmp_path / "hf"
    no_bytes = whole | {"types": [1 if kind == 6 else kind for kind in whole["types"]]}
    assert "no byte tokens" in refused(damaged(tmp_path, vocabulary=no_bytes), target)
    twice = whole | {"tokens": [*whole["tokens"][:-1], whole["tokens"][-2]]}
    assert "holds a token twice" in refused(damaged(tmp_path, vocabulary=twice), target)
    fewer = whole | {"types": whole["types"][:-1]}
    assert "differ in number" in refused(damaged(tmp_path, vocabulary=fewer), target)
    bytes_only = byte_level_vocabulary("smollm")
    strange = bytes_only | {"merges": [*bytes_only["merges"], "Ġ nowhere"]}
    assert "its tokenizer is damaged" in refused(damaged(tmp_path, vocabulary=strange), target)
    unparted = bytes_only | {"merges": [*bytes_only["merges"], "unparted"]}
    assert "its tokenizer is damaged" in refused(damaged(tmp_path, vocabulary=unparted), target)


def test_rope_factors_that_follow_no_known_rule_are_refused(tmp_path: Path) -> None:
    odd = np.linspace(1, 9, 8, dtype=np.float32)
    path = damaged(tmp_path, extra={"rope_freqs.weight": odd})
    assert "does not follow Llama 3's rule" in refused(path, tmp_path / "hf")


def test_an_interrupted_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_import, "write_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_gguf(damaged(tmp_path), tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.gguf"]


def test_an_existing_target_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        import_gguf(damaged(tmp_path), tmp_path / "hf")


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        import_gguf(damaged(tmp_path), tmp_path / "file" / "hf")
