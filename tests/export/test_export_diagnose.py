"""Each way an export goes wrong makes the proof fail, and is called by its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import proof_tiny as tiny
import pytest
from proof_tiny import Tiny, rewrite
from safetensors.numpy import load_file, save_file

from tunesmith.export.diagnose import UNKNOWN, shape_causes, token_causes
from tunesmith.export.diagnose_weights import tensor_causes
from tunesmith.export.proof import prove
from tunesmith.export.proof_limits import Limits
from tunesmith.export.weights import Weights
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.gguf_tensors import hf_name

QUICK = Limits(tokens=160, conversations=1, prompts=2, max_new_tokens=8)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny.make(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny.make(tmp_path_factory.mktemp("qwen"), "qwen2")


def on(names: str, do: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, np.ndarray], np.ndarray]:
    """A change of the tensors whose name has ``names`` in it."""
    return lambda name, data: np.ascontiguousarray(do(data)).astype(data.dtype) if names in name else data


def unpermuted(data: np.ndarray) -> np.ndarray:
    heads = len(data) // 16
    return data.reshape(heads, -1, 2, data.shape[1]).swapaxes(1, 2).reshape(data.shape)


def permuted(data: np.ndarray) -> np.ndarray:
    return tiny.permute(data, len(data) // 16)


SYSTEMLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
BOS_FIRST = "{{ bos_token }}" + tiny.CHATML

METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "wrong template": ({"tokenizer.chat_template": SYSTEMLESS}, "character 23"),
    "missing stop": ({"tokenizer.ggml.eos_token_id": 0}, "<|im_end|>"),
    "double BOS": ({"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": BOS_FIRST}, "two"),
    "wrong rope base": ({"llama.rope.freq_base": 500000.0}, "500000 in the file, and 10000"),
    "wrong rms_norm_eps": ({"llama.attention.layer_norm_rms_epsilon": 1e-2}, "0.01 in the file, and 1e-05"),
}


@pytest.mark.parametrize("name", METADATA)
def test_wrong_metadata_make_the_proof_fail_and_are_named(llama: Tiny, tmp_path: Path, name: str) -> None:
    changes, words = METADATA[name]
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", metadata=changes)
    proof = prove(wrong, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK)
    assert not proof.holds
    assert proof.causes[0].name == name
    assert words in proof.causes[0].sentence


WEIGHTS = {
    "q/k permutation missing": (on("attn_q.weight", unpermuted), "blk.0.attn_q.weight"),
    "q/k permutation done twice": (on("1.attn_k.weight", permuted), "blk.1.attn_k.weight"),
    "zeroed tensor": (on("blk.1.ffn_down", np.zeros_like), "blk.1.ffn_down.weight"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_wrong_weights_make_the_proof_fail_and_are_named(llama: Tiny, tmp_path: Path, name: str) -> None:
    change, place = WEIGHTS[name]
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", change=change)
    proof = prove(wrong, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK)
    failed = {check.name for check in proof.checks if not check.holds}
    assert "model" in failed
    assert [cause.name for cause in proof.causes] == [name]
    assert place in proof.causes[0].places
    assert place in proof.causes[0].sentence


def test_an_adapter_that_is_not_merged_is_named(llama: Tiny, tmp_path: Path) -> None:
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", change=tiny.expected(llama.base, None))
    proof = prove(wrong, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK)
    assert not proof.holds
    assert [cause.name for cause in proof.causes] == ["adapter not merged"]
    assert len(proof.causes[0].places) == 14  # seven modules, two layers


def test_a_changed_merge_makes_the_proof_fail_and_is_named(llama: Tiny, tmp_path: Path) -> None:
    merges = list(read_gguf(llama.gguf).require("tokenizer.ggml.merges"))
    merges[0], merges[-1] = merges[-1], merges[0]
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", metadata={"tokenizer.ggml.merges": merges})
    proof = prove(wrong, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK)
    assert not proof.holds
    assert (proof.causes[0].name, proof.causes[0].places) == ("tokenizer differs", ("merge 0",))


def test_changed_tokens_are_named(llama: Tiny, tmp_path: Path) -> None:
    tokens = list(read_gguf(llama.gguf).require("tokenizer.ggml.tokens"))
    tokens[300], tokens[301] = tokens[301], tokens[300]
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", metadata={"tokenizer.ggml.tokens": tokens})
    causes = token_causes(read_gguf(wrong), llama.chat)
    assert [(c.name, c.places) for c in causes] == [("tokenizer differs", ("token 300", "token 301"))]


def test_other_weights_are_named(llama: Tiny, tmp_path: Path) -> None:
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", change=on("blk.0.ffn_up", lambda data: data[::-1]))
    causes = tensor_causes(read_gguf(wrong), llama.base, llama.adapter)
    assert [(c.name, c.places) for c in causes] == [("another tensor", ("blk.0.ffn_up.weight",))]


def test_rows_that_should_stay_as_they_are_are_named_when_they_are_permuted(qwen: Tiny, tmp_path: Path) -> None:
    assert tensor_causes(read_gguf(qwen.gguf), qwen.base, qwen.adapter) == []
    wrong = rewrite(qwen.gguf, tmp_path / "wrong.gguf", change=on("attn_q.weight", permuted))
    causes = tensor_causes(read_gguf(wrong), qwen.base, qwen.adapter)
    assert [cause.name for cause in causes] == ["q/k permutation not wanted"]


@pytest.mark.parametrize(("names", "more"), [("blk.0.ffn_up", ""), (".ffn_up", " The same goes for 1 more.")])
def test_of_several_wrong_tensors_the_others_are_counted(llama: Tiny, tmp_path: Path, names: str, more: str) -> None:
    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", change=on(names, np.zeros_like))
    [cause] = tensor_causes(read_gguf(wrong), llama.base, llama.adapter)
    assert cause.sentence == f"blk.0.ffn_up.weight is all zeros in the file, and in the trained model it is not.{more}"


def test_an_adapter_that_rounding_bends_is_named(llama: Tiny, tmp_path: Path) -> None:
    """A small adapter, of which one tensor of the file has nearly twice as much: as near to the weights as rounding."""
    arrays = load_file(llama.adapter / "adapter_model.safetensors")
    small = shutil.copytree(llama.adapter, tmp_path / "small") / "adapter_model.safetensors"
    save_file({name: array * (2e-4 if "lora_B" in name else 1) for name, array in arrays.items()}, small)
    plain, trained = Weights(llama.base), Weights(llama.base, small.parent)

    def bent(name: str, data: np.ndarray) -> np.ndarray:
        ours = hf_name(name, gemma=False)
        if ours is None or data.ndim < 2:
            return data
        share = 1.8 if "blk.0.ffn_up" in name else 1.0
        values = plain.read(ours) + share * (trained.read(ours) - plain.read(ours))
        heads = tiny.HEADS.get(ours.split(".")[-2])
        return (tiny.permute(values, heads) if heads else values).astype(np.float32)

    [cause] = tensor_causes(
        read_gguf(rewrite(llama.gguf, tmp_path / "wrong.gguf", change=bent)), llama.base, small.parent
    )
    assert (cause.name, cause.places) == ("adapter distorted by quantizing", ("blk.0.ffn_up.weight",))
    assert "180% of what training changed in 1 of 14 tensors" in cause.sentence


def test_a_tensor_that_is_no_number_is_named(llama: Tiny, tmp_path: Path) -> None:
    def broken(data: np.ndarray) -> np.ndarray:
        return np.where(np.arange(data.size).reshape(data.shape) == 7, np.nan, data)

    wrong = rewrite(llama.gguf, tmp_path / "wrong.gguf", change=on("blk.0.attn_v.weight", broken))
    causes = tensor_causes(read_gguf(wrong), llama.base, llama.adapter)
    assert [(c.name, c.places) for c in causes] == [("not finite", ("blk.0.attn_v.weight",))]


def test_a_right_file_has_nothing_wrong(llama: Tiny) -> None:
    gguf = read_gguf(llama.gguf)
    assert shape_causes(gguf, llama.base) == []
    assert token_causes(gguf, llama.chat) == []
    assert tensor_causes(gguf, llama.base, llama.adapter) == []


def test_what_cannot_be_explained_is_said_to_be_unexplained(llama: Tiny) -> None:
    """Another adapter in the engine than the one that was exported: the file is right, and yet differs."""
    right = llama.engine.adapter_arrays()
    llama.engine.load_adapter_arrays({name: array * 3 for name, array in right.items()})
    try:
        proof = prove(llama.gguf, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK)
    finally:
        llama.engine.load_adapter_arrays(right)
    assert not proof.holds
    assert proof.causes == [UNKNOWN]
