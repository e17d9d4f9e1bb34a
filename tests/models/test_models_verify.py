"""The check of an import sees what is wrong, and says when it cannot be made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_tiny import byte_level_vocabulary, permute, tiny_model, write_gguf

from tunesmith.errors import EngineError, ModelError
from tunesmith.models import llamacpp
from tunesmith.models.gguf_import import import_gguf
from tunesmith.models.llamacpp import ask_llamacpp
from tunesmith.models.verify import compare_logits, verify_import


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    folder = tmp_path_factory.mktemp("verify")
    vocabulary = byte_level_vocabulary("smollm")
    model = tiny_model("llama", len(vocabulary["tokens"]), tie_word_embeddings=True)
    path = write_gguf(folder / "tiny.gguf", "llama", model, vocabulary)
    import_gguf(path, folder / "hf")
    return model, path, folder / "hf"


def test_rows_in_the_wrong_order_show_in_the_divergence(tiny: tuple[Any, Path, Path]) -> None:
    import copy

    import torch

    model, path, folder = tiny
    wrong = copy.deepcopy(model)
    for layer in wrong.model.layers:
        weight = layer.self_attn.q_proj.weight
        weight.data = torch.from_numpy(permute(weight.detach().numpy(), 4).copy())

    def logits(ids: Any) -> np.ndarray:
        with torch.no_grad():
            return wrong(torch.tensor([list(ids)])).logits[0].numpy()

    assert verify_import(path, folder, logits, ["The quick brown fox jumps over it."]).kl > 0.1


def test_a_tokenizer_that_cuts_otherwise_is_named(tiny: tuple[Any, Path, Path], tmp_path: Path) -> None:
    model, path, folder = tiny
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    size = model.config.vocab_size
    check = verify_import(path, tmp_path, lambda ids: np.zeros((len(ids), size), np.float32), ["The quick brown fox"])
    assert check.different[0] == "The quick brown fox"
    assert not check.same_tokens
    assert check.kl > 0


def test_divergence_is_that_of_the_distributions() -> None:
    p = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    q = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32)) + 3
    kl, same, difference = compare_logits(p, q)
    np.testing.assert_allclose(kl, [0.25 * np.log(2), 0], atol=1e-6)
    assert same.tolist() == [False, True]
    assert difference == pytest.approx(3 + np.log(2), abs=1e-5)
    with pytest.raises(ModelError, match="cannot be compared"):
        compare_logits(p, q[:1])


def test_long_rows_are_decoded_in_pieces(tiny: tuple[Any, Path, Path]) -> None:
    import torch

    model, path, _ = tiny
    ids = np.random.default_rng(1).integers(0, 400, 520).tolist()
    (reference,) = ask_llamacpp(path, [ids])
    assert reference.ids == ids
    assert reference.logits is not None
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0].numpy()
    assert float(compare_logits(reference.logits, ours)[0].mean()) < 1e-3


def test_what_llama_cpp_refuses_is_a_model_error(tiny: tuple[Any, Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(tiny[1].read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"llama\.cpp cannot run"):
        next(ask_llamacpp(path, ["hello"]))
    with pytest.raises(ModelError, match="token id 99999"):
        next(ask_llamacpp(tiny[1], [[99999]]))


def test_no_text_at_all_is_an_error(tiny: tuple[Any, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.models.verify.ask_llamacpp", lambda gguf, texts: [llamacpp.Reference([], None)])
    monkeypatch.setattr("tunesmith.models.verify._special_text", lambda tokenizer: "")
    with pytest.raises(ModelError, match="nothing was compared"):
        verify_import(tiny[1], tiny[2], lambda ids: np.zeros((0, 0)), [])


def test_without_xllamacpp_the_command_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(llamacpp.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install xllamacpp"):
        next(ask_llamacpp(tmp_path / "x.gguf", ["hello"]))
