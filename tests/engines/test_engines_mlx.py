"""The MLX engine agrees with transformers, peft and torch's AdamW."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

import mlx.core as mx
import tiny
from reference import Reference, base_logits, greedy, one_thread, peft_logits, write_adapter

from tunesmith.engines import mlx_decoder, mlx_engine
from tunesmith.engines.adapter import fresh
from tunesmith.engines.base import LORA_MODULES, Batch, LoraShape, StepSettings
from tunesmith.engines.mlx_engine import MlxEngine, compute_dtype, out_of_memory, wired_limit
from tunesmith.engines.needs import kept_by_mlx
from tunesmith.errors import EngineError, ModelError, OutOfMemory, TrainingError
from tunesmith.models.architecture import read_architecture

IDS = tiny.rows(1, seed=5, longest=40)[0][0] + list(range(20, 40))  # longer than the windows


@pytest.fixture(autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


def engine_of(family: str = "llama", shape: LoraShape | None = None, seed: int = 3) -> MlxEngine:
    folder = tiny.tiny(family)
    engine = MlxEngine(folder, read_architecture(folder), "fp32")
    if shape:
        engine.add_adapter(shape, seed)
    return engine


def settings(step: int, **more: float) -> StepSettings:
    return StepSettings(step=step, learning_rate=5e-3 * (1 - step / 100), **more)  # type: ignore[arg-type]


def train(engine: MlxEngine, first: int, last: int) -> list[float]:
    plan = tiny.steps(last)
    return [engine.step(plan[i], settings(i + 1)).loss for i in range(first, last)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_are_those_of_transformers(family: str) -> None:
    ours, theirs = engine_of(family).logits(IDS), base_logits(tiny.tiny(family), IDS)
    assert ours.dtype == np.float32
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_thirty_losses_are_those_of_peft_and_torch(decay: float) -> None:
    shape = LoraShape(rank=4, alpha=8)
    folder = tiny.tiny("llama")
    theirs = Reference(folder, shape, fresh(read_architecture(folder), shape, 3))
    engine = engine_of(shape=shape)
    clipped = 0
    for i, micro_batches in enumerate(tiny.steps(30), start=1):
        mine = engine.step(micro_batches, settings(i, weight_decay=decay))
        other = theirs.step(micro_batches, settings(i, weight_decay=decay))
        assert mine.loss == pytest.approx(other.loss, abs=1e-5), i
        assert mine.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3), i
        assert mine.tokens == other.tokens
        clipped += mine.gradient_norm > 1
    assert clipped > 0
    for name, array in theirs.arrays().items():
        np.testing.assert_allclose(engine.adapter_arrays()[name], array, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "gemma3"])
def test_losses_of_every_family_are_those_of_peft(family: str) -> None:
    shape = LoraShape(rank=4, alpha=8)
    folder = tiny.tiny(family)
    theirs = Reference(folder, shape, fresh(read_architecture(folder), shape, 3))
    engine = engine_of(family, shape)
    for i, micro_batches in enumerate(tiny.steps(4), start=1):
        mine, other = (e.step(micro_batches, settings(i)).loss for e in (engine, theirs))
        assert mine == pytest.approx(other, abs=1e-5), i


def test_a_trained_adapter_loads_in_peft(tmp_path: Path) -> None:
    shape = LoraShape(rank=4, alpha=8, modules=("q_proj", "down_proj"), layers=3)
    engine = engine_of(shape=shape)
    train(engine, 0, 4)
    folder = write_adapter(tmp_path, tiny.tiny("llama"), shape, engine.adapter_arrays())
    theirs = peft_logits(tiny.tiny("llama"), folder, IDS)
    np.testing.assert_allclose(engine.logits(IDS), theirs, atol=1e-4)
    assert np.abs(theirs - engine.logits(IDS, adapter=False)).max() > 0.1


def test_without_the_adapter_it_is_the_base() -> None:
    engine = engine_of(shape=LoraShape())
    base = engine.logits(IDS)  # B is zero
    train(engine, 0, 3)
    np.testing.assert_array_equal(engine.logits(IDS, adapter=False), base)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_greedy_text_is_that_of_transformers_for_prompts_of_any_length(family: str) -> None:
    prompts = [row for row, _ in tiny.rows(4, seed=8, longest=14)]
    assert len({len(p) for p in prompts}) > 1
    engine = engine_of(family)
    free = engine.generate(prompts, max_new_tokens=10, stop=frozenset())
    assert all(len(g.ids) == 10 and not g.stopped for g in free)
    stop = free[1].ids[4]  # one row ends early, the others go on
    seen: list[tuple[int, int]] = []
    results = engine.generate(prompts, max_new_tokens=10, stop=frozenset({stop}), on_token=lambda *at: seen.append(at))
    for row, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        assert result.ids == greedy(tiny.tiny(family), prompt, 10, stop)
        assert result.ids == [token for at, token in seen if at == row]
        assert result.stopped == (len(result.ids) < 10)


def test_sampling_repeats_by_seed_and_no_row_disturbs_another() -> None:
    engine = engine_of()
    prompts = [row for row, _ in tiny.rows(3, seed=9)]

    def sample(rows: list[list[int]], seed: int) -> list[list[int]]:
        out = engine.generate(rows, max_new_tokens=8, stop=frozenset(), temperature=1.0, seed=seed)
        return [g.ids for g in out]

    first = sample(prompts, 1)
    assert sample(prompts, 1) == first
    assert sample(prompts[:1], 1) == first[:1]
    assert sample(prompts, 2) != first


def test_sampling_follows_the_distribution() -> None:
    engine = engine_of()
    prompt, many = IDS[:5], 600
    out = engine.generate([prompt] * many, max_new_tokens=1, stop=frozenset(), temperature=2.0, seed=4)
    drawn = np.bincount([g.ids[0] for g in out], minlength=tiny.VOCABULARY) / many
    weights = np.exp(engine.logits(prompt)[-1].astype(np.float64) / 2.0)
    expected = weights / weights.sum()
    assert np.abs(drawn - expected).max() < 4 * np.sqrt(expected.max() / many)


def test_top_layers_only() -> None:
    engine = engine_of(shape=LoraShape(rank=4, layers=2))
    before = engine.adapter_arrays()
    assert {name.split(".")[4] for name in before} == {"2", "3"}
    assert len(before) == 2 * len(LORA_MODULES) * 2
    train(engine, 0, 2)
    after = engine.adapter_arrays()
    assert all((after[name] != before[name]).any() for name in before)


def test_training_goes_on_from_saved_arrays_as_if_never_stopped() -> None:
    shape = LoraShape(rank=4, dropout=0.2)
    engine = engine_of(shape=shape)
    assert engine.optimizer_arrays() == {}
    train(engine, 0, 3)
    adapter, moments = engine.adapter_arrays(), engine.optimizer_arrays()
    assert moments.keys() == {f"{part}.{name}" for part in "mv" for name in adapter}
    rest = train(engine, 3, 6)
    other = engine_of(shape=shape, seed=99)
    other.load_adapter_arrays(adapter)
    other.load_optimizer_arrays(moments, 3)
    assert train(other, 3, 6) == rest
    for name, array in other.adapter_arrays().items():
        np.testing.assert_array_equal(array, engine.adapter_arrays()[name])


def test_dropout_is_drawn_from_seed_step_and_micro_batch_and_only_in_training() -> None:
    batch = tiny.steps(1)[0][0]

    def loss(step: int, seed: int = 0, copies: int = 1, dropout: float = 0.5) -> float:
        engine = engine_of(shape=LoraShape(rank=4, dropout=dropout))
        arrays = {name: array + 0.1 for name, array in engine.adapter_arrays().items()}  # B not zero
        engine.load_adapter_arrays(arrays)
        value = engine.step([batch] * copies, StepSettings(step, learning_rate=0.0, seed=seed)).loss
        plain = engine_of(shape=LoraShape(rank=4))
        plain.load_adapter_arrays(arrays)
        np.testing.assert_array_equal(engine.logits(IDS), plain.logits(IDS))
        return value

    assert loss(1) == loss(1)
    assert len({loss(1), loss(2), loss(1, seed=1), loss(1, copies=2)}) == 4
    assert loss(1, dropout=0.0) == pytest.approx(loss(2, seed=1, copies=2, dropout=0.0), abs=1e-5)


def test_dropout_keeps_the_mean_of_its_input() -> None:
    lora = mlx_decoder.Adapter(LoraShape(dropout=0.25), {}, modules=[(0, "q_proj")])
    lora.draw(mx.random.key(1))
    dropped = np.array(lora.drop(0, mx.ones((100, 100))))
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)


def test_a_second_adapter_takes_the_place_of_the_first() -> None:
    engine = engine_of(shape=LoraShape(rank=2, layers=3))
    train(engine, 0, 3)
    shape = LoraShape(rank=4, modules=("q_proj", "up_proj"), layers=2)
    engine.add_adapter(shape, 5)
    assert engine.optimizer_arrays() == {}
    assert train(engine, 0, 3) == train(engine_of(shape=shape, seed=5), 0, 3)


def test_losses_are_those_of_the_logits_row_by_row() -> None:
    engine = engine_of(shape=LoraShape(rank=4))
    train(engine, 0, 2)
    rows = [*tiny.rows(4, seed=2), ([5, 6, 7], [False] * 3)]
    sums, counts = engine.losses(Batch.of(rows))
    assert (sums.dtype, counts.dtype) == (np.float64, np.int64)
    for (ids, learn), total, count in zip(rows, sums, counts, strict=True):
        logits = engine.logits(ids).astype(np.float64)
        nll = np.log(np.exp(logits).sum(-1))[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
        assert count == sum(learn[1:])
        assert total == pytest.approx(nll[np.array(learn[1:])].sum(), abs=1e-4)


def test_the_head_in_pieces_gives_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LoraShape(rank=4)
    whole = train(engine_of(shape=shape), 0, 3)
    monkeypatch.setattr(mlx_decoder, "HEAD_BYTES", 4 * tiny.VOCABULARY * 3)
    assert train(engine_of(shape=shape), 0, 3) == pytest.approx(whole, abs=1e-5)


def test_layers_run_again_on_the_way_back_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LoraShape(rank=4, dropout=0.1, layers=3)
    kept = train(engine_of("mistral", shape), 0, 3)
    engine, again = engine_of("mistral", shape), []
    monkeypatch.setattr(engine, "_room", 1000)
    recomputed = mlx_decoder._recomputed
    monkeypatch.setattr(mlx_decoder, "_recomputed", lambda *a: again.append(a[1]) or recomputed(*a))
    assert train(engine, 0, 3) == pytest.approx(kept, abs=1e-6)
    assert again
    monkeypatch.setattr(engine, "_room", 1_000_000_000)
    assert not engine._too_much_to_keep(tiny.steps(1)[0][0])


def test_a_3b_model_with_8192_tokens_keeps_tens_of_gigabytes() -> None:
    arch = replace(engine_of()._decoder.arch, width=3072, mlp_width=8192, heads=24, head_dim=128)
    assert 30e9 < kept_by_mlx(arch, 28, 4, 2048, 2) < 100e9
    assert kept_by_mlx(arch, 4, 4, 2048, 2) == kept_by_mlx(arch, 28, 4, 2048, 2) // 7


def test_rows_of_other_lengths_in_a_pass_of_their_own_are_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LoraShape(rank=4)
    whole = train(engine_of(shape=shape), 0, 3)
    monkeypatch.setattr(mlx_engine, "SPARED", 2)
    assert train(engine_of(shape=shape), 0, 3) == pytest.approx(whole, abs=1e-5)


def test_padding_changes_nothing() -> None:
    engine = engine_of("gemma3", LoraShape(rank=4))
    short, long = tiny.rows(1, seed=3, longest=9)[0], (IDS, [True] * len(IDS))
    alone, _ = engine.losses(Batch.of([short]))
    padded, _ = engine.losses(Batch.of([long, short]))
    assert padded[1] == pytest.approx(alone[0], abs=1e-5)


def test_bf16_computes_near_fp32_and_keeps_float32_masters() -> None:
    folder = tiny.tiny("llama")
    engine = MlxEngine(folder, read_architecture(folder), "bf16")
    engine.add_adapter(LoraShape(rank=4), 3)
    exact = train(engine_of(shape=LoraShape(rank=4)), 0, 3)
    assert train(engine, 0, 3) == pytest.approx(exact, rel=0.03)
    assert {a.dtype for a in engine.adapter_arrays().values()} == {np.dtype(np.float32)}
    assert {a.dtype for a in engine.optimizer_arrays().values()} == {np.dtype(np.float32)}


def test_auto_is_bf16_on_apple_silicon_only() -> None:
    assert compute_dtype("auto", "arm64", "darwin") == mx.bfloat16
    assert compute_dtype("auto", "x86_64", "linux") == mx.float32
    assert compute_dtype("fp32", "arm64", "darwin") == mx.float32
    with pytest.raises(EngineError, match="fp8"):
        compute_dtype("fp8", "arm64", "darwin")


def test_the_wired_limit_is_what_the_device_recommends() -> None:
    assert wired_limit({"max_recommended_working_set_size": 11453251584}) == 11453251584
    assert wired_limit({"architecture": "x86_64"}) is None


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    engine = engine_of(shape=LoraShape(rank=4))
    arrays = engine.adapter_arrays()
    arrays[next(iter(arrays))][:] = np.inf
    engine.load_adapter_arrays(arrays)
    result = engine.step(tiny.steps(1)[0], settings(1))
    assert not np.isfinite(result.loss)
    assert engine.optimizer_arrays() == {}
    np.testing.assert_array_equal(engine.adapter_arrays()[name := next(iter(arrays))], arrays[name])


def test_mistakes_are_said_in_words() -> None:
    engine = engine_of()
    with pytest.raises(EngineError, match="add_adapter"):
        engine.step(tiny.steps(1)[0], settings(1))
    engine.add_adapter(LoraShape(rank=4), 0)
    with pytest.raises(TrainingError, match="no row with a token to learn"):
        engine.step([Batch.of([([1, 2], [False, False])])], settings(1))
    with pytest.raises(EngineError, match="another adapter"):
        engine.load_adapter_arrays({})
    with pytest.raises(EngineError, match="needs"):
        engine.load_adapter_arrays({name: a[:1] for name, a in engine.adapter_arrays().items()})
    with pytest.raises(EngineError, match="no tokens"):
        engine.generate([[1], []], max_new_tokens=1, stop=frozenset())
    assert engine.memory() > 1_000_000


def test_memory_errors_of_mlx_become_ours() -> None:
    with pytest.raises(OutOfMemory, match="smaller"), out_of_memory():
        raise RuntimeError("[metal::malloc] Attempting to allocate 9 bytes")
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory():
        raise RuntimeError("[matmul] shapes differ")


def test_a_step_that_does_not_fit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LoraShape(rank=4, dropout=0.1)
    engine = engine_of(shape=shape)

    def full(*_: object) -> mx.array:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes")

    with monkeypatch.context() as broken:
        broken.setattr(engine._decoder, "token_losses", full)
        with pytest.raises(OutOfMemory):
            engine.step(tiny.steps(1)[0], settings(1))
    assert train(engine, 0, 2) == train(engine_of(shape=shape), 0, 2)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = tiny.tiny("llama")
    arch = read_architecture(source)
    tensors = load_file(source / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())

    def refused(changed: dict[str, np.ndarray], match: str) -> None:
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=match):
            MlxEngine(tmp_path, arch, "fp32")

    refused({n: t for n, t in tensors.items() if n != "model.norm.weight"}, "lacks the tensor model.norm")
    refused({**tensors, "model.layers.0.self_attn.q_proj.bias": np.zeros(48, np.float32)}, "q_proj.bias")
    refused({**tensors, "model.norm.weight": np.zeros(3, np.float32)}, "config.json says")
