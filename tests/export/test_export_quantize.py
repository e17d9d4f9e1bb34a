"""ggml's quantizers give the bytes of the gguf package's own, and whole files are those of llama.cpp's quantizer."""

from __future__ import annotations

import json
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import llama_quantizer
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import EngineError, ModelError
from tunesmith.export.quantize import kind_of, pack, row_bytes
from tunesmith.models import ggml

RECORDED = json.loads(Path(__file__).with_name("llama_quantizer.json").read_text())
# What a standard normal loses: the root of the mean square, measured, with a little room.
LOSSES = {Kind.Q8_0: 0.006, Kind.Q6_K: 0.019, Kind.Q5_K: 0.038, Kind.Q4_K: 0.075}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, 768)).astype(np.float32)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_bytes_are_those_of_the_gguf_package(kind: Kind, rows: np.ndarray) -> None:
    assert pack(rows, kind).tobytes() == gguf.quantize(rows, kind).tobytes()


@pytest.mark.parametrize("kind", LOSSES)
def test_what_is_packed_can_be_unpacked_with_a_small_loss(kind: Kind, rows: np.ndarray) -> None:
    packed = pack(rows, kind)
    assert len(packed) == len(rows) * row_bytes(768, kind)
    back = gguf.dequantize(packed.reshape(len(rows), -1), kind)
    assert np.sqrt(np.mean((back - rows) ** 2)) < LOSSES[kind]


def test_rows_in_several_threads_are_the_rows_at_once(rows: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: pack(rows[i : i + 8], Kind.Q4_K), range(0, 64, 8)))
    assert b"".join(parts) == pack(rows, Kind.Q4_K).tobytes()


def test_rows_that_are_not_contiguous_are_taken_as_they_are(rows: np.ndarray) -> None:
    turned = rows[:, ::-1]
    np.testing.assert_array_equal(pack(turned, Kind.Q8_0), pack(turned.copy(), Kind.Q8_0))


@pytest.mark.parametrize(
    ("kind", "large"),
    [(Kind.F16, 7e4), (Kind.Q8_0, 1e7), (Kind.Q5_0, 1e7), (Kind.Q5_1, -7e4), (Kind.Q4_K, 1e8), (Kind.Q5_K, 1e30)],
)
def test_a_number_that_makes_a_scale_infinite_is_refused_as_llama_cpp_does(kind: Kind, large: float) -> None:
    rows = np.ones((2, 256), np.float32)
    rows[1, 3] = large
    with pytest.raises(ModelError, match=f"{kind.name}; export it as bf16"):
        pack(rows, kind)
    assert len(pack(rows, Kind.BF16)) == 2 * 512
    rows[1, 3] = 60000.0
    assert len(pack(rows, kind))


def test_numbers_that_are_none_and_rows_that_do_not_fit_are_refused() -> None:
    rows = np.ones((2, 256), np.float32)
    rows[1, 3] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        pack(rows, Kind.Q4_K)
    with pytest.raises(ValueError, match="256 at a time"):
        pack(np.ones((2, 100), np.float32), Kind.Q4_K)


def test_a_machine_without_ggml_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml, "shared_library", lambda: "/nowhere/xllamacpp.so")
    for name in ("_library", "function"):  # nothing that was found before
        monkeypatch.setattr(ggml, name, getattr(ggml, name).__wrapped__)
    with pytest.raises(EngineError, match="pip install xllamacpp"):
        pack(np.ones((1, 32), np.float32), Kind.Q8_0)


@pytest.mark.parametrize("kind", llama_quantizer.KINDS)
@pytest.mark.parametrize("name", llama_quantizer.CONFIGS)
def test_files_are_those_of_llama_cpps_own_quantizer_byte_for_byte(name: str, kind: str, tmp_path: Path) -> None:
    found = llama_quantizer.digest(llama_quantizer.write(llama_quantizer.CONFIGS[name], tmp_path / "model", kind))
    expected = RECORDED[name][kind]
    assert found["types"] == expected["types"]
    if platform.machine() in ("x86_64", "AMD64"):  # elsewhere ggml itself rounds otherwise: a * b + c in one step
        assert found == expected


def mixture(wanted: str, layers: int, name: str, shape: tuple[int, int] = (512, 512)) -> list[int]:
    """The layers whose tensor gets Q6_K."""
    kinds = [kind_of(f"blk.{i}.{name}.weight", shape, layers, wanted, tied=True) for i in range(layers)]
    return [i for i, kind in enumerate(kinds) if kind is Kind.Q6_K]


def test_the_m_mixtures_give_more_bits_to_the_layers_that_llama_cpp_chooses() -> None:
    # Llama 3.1 8B's Q4_K_M as published: 32 layers.
    expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    for wanted in ("q4_k_m", "q5_k_m"):
        for name in ("attn_v", "ffn_down", "attn_qkv"):
            assert mixture(wanted, 32, name) == expected
        assert mixture(wanted, 32, "attn_k") == []
        assert mixture(wanted, 32, "ffn_up") == []
    assert len(mixture("q6_k", 32, "attn_k")) == 32


@pytest.mark.parametrize(
    ("name", "shape", "tied", "wanted", "kind"),
    [
        ("output.weight", (1000, 512), False, "q4_k_m", Kind.Q6_K),
        ("token_embd.weight", (1000, 512), False, "q4_k_m", Kind.Q4_K),
        ("token_embd.weight", (1000, 512), True, "q5_k_m", Kind.Q6_K),
        ("token_embd.weight", (1000, 512), True, "q8_0", Kind.Q8_0),
        ("token_embd.weight", (1000, 576), True, "q4_k_m", Kind.Q8_0),
        ("token_embd.weight", (1000, 576), False, "q4_k_m", Kind.Q5_0),
        ("blk.5.attn_q.weight", (576, 576), True, "q4_k_m", Kind.Q5_0),
        ("blk.5.attn_q.weight", (576, 576), True, "q5_k_m", Kind.Q5_1),
        ("blk.5.attn_q.weight", (576, 576), True, "q6_k", Kind.Q8_0),
        ("blk.5.attn_q.weight", (48, 48), True, "q8_0", Kind.F16),
        ("blk.5.attn_q.weight", (48, 48), True, "q4_k_m", Kind.F16),
        ("blk.5.attn_q.bias", (512,), True, "q4_k_m", Kind.F32),
        ("blk.5.attn_norm.weight", (512,), True, "f16", Kind.F32),
        ("blk.5.attn_q.weight", (512, 512), True, "bf16", Kind.BF16),
        # A 70B model's values are an eighth as large as its queries, and get five bits at least.
        ("blk.10.attn_v.weight", (1024, 8192), False, "q4_k_m", Kind.Q5_K),
        ("blk.10.attn_v.weight", (8192, 8192), False, "q4_k_m", Kind.Q4_K),
        ("blk.10.attn_v.weight", (1024, 8192), False, "q5_k_m", Kind.Q5_K),
        ("blk.10.ffn_down.weight", (8192, 28672), False, "q4_k_m", Kind.Q4_K),
    ],
)
def test_each_tensor_gets_the_kind_that_llama_cpp_gives_it(
    name: str, shape: tuple[int, ...], tied: bool, wanted: str, kind: Kind
) -> None:
    assert kind_of(name, shape, 80, wanted, tied=tied) is kind
