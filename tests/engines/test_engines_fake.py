"""The fake engine is a real, small learner with faults on demand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tunesmith.engines.adapter import fresh
from tunesmith.engines.base import Batch, Engine, LoraShape, StepSettings
from tunesmith.engines.fake import FakeEngine
from tunesmith.errors import EngineError, TrainingError

ROWS = [([5, 6, 7, 8, 9], [False, True, True, True, True]), ([9, 8, 7], [False, False, True])]
BATCHES = [Batch.of(ROWS), Batch.of(ROWS[:1])]


def engine_of(shape: LoraShape | None = None, **faults: int) -> FakeEngine:
    engine = FakeEngine(**faults)
    engine.add_adapter(shape or LoraShape(rank=2), seed=1)
    return engine


def train(engine: Engine, first: int, last: int) -> list[float]:
    return [engine.step(BATCHES, StepSettings(step, 0.05)).loss for step in range(first, last + 1)]


def test_it_is_an_engine_and_really_learns_in_milliseconds() -> None:
    engine: Engine = engine_of()
    begin = time.perf_counter()
    losses = train(engine, 1, 100)
    assert time.perf_counter() - begin < 2
    assert losses[-1] < losses[0] / 2
    total, count = engine.losses(BATCHES[0])
    base, _ = engine.losses(BATCHES[0], adapter=False)
    assert total.sum() < base.sum()
    assert count.tolist() == [4, 1]


def test_the_gradient_is_that_of_the_loss() -> None:
    engine = engine_of(LoraShape(rank=2, modules=("q_proj", "up_proj"), layers=1))
    train(engine, 1, 3)
    arrays, h = engine.adapter_arrays(), 1e-3

    def loss() -> float:
        total = [engine.losses(batch) for batch in BATCHES]
        return sum(s.sum() for s, _ in total) / sum(n.sum() for _, n in total)

    square = 0.0
    for name, array in arrays.items():
        for at in np.ndindex(array.shape):
            ends = []
            for sign in (h, -h):
                moved = array.copy()
                moved[at] += sign
                engine.load_adapter_arrays({**arrays, name: moved})
                ends.append(loss())
            square += ((ends[0] - ends[1]) / (2 * h)) ** 2
    engine.load_adapter_arrays(arrays)
    result = engine.step(BATCHES, StepSettings(4, 0.05))
    assert result.gradient_norm == pytest.approx(np.sqrt(square), rel=1e-3)


def test_adapters_have_pefts_names_and_start_as_the_base() -> None:
    shape = LoraShape(rank=3, modules=("q_proj", "down_proj"), layers=1)
    engine = engine_of(shape)
    expected = fresh(engine.arch, shape, 1)
    assert engine.adapter_arrays().keys() == expected.keys()
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in expected
    np.testing.assert_array_equal(engine.logits([5, 6]), engine.logits([5, 6], adapter=False))


def test_a_step_taken_again_gives_the_same_bytes() -> None:
    shape = LoraShape(rank=2, dropout=0.3)
    engine = engine_of(shape)
    assert engine.optimizer_arrays() == {}
    train(engine, 1, 5)
    adapter, moments = engine.adapter_arrays(), engine.optimizer_arrays()
    losses = train(engine, 6, 10)
    other = FakeEngine()
    other.add_adapter(shape, seed=9)
    other.load_adapter_arrays(adapter)
    other.load_optimizer_arrays(moments, 5)
    assert train(other, 6, 10) == losses
    for mine, theirs in ((engine.adapter_arrays(), other.adapter_arrays()),
                         (engine.optimizer_arrays(), other.optimizer_arrays())):  # fmt: skip
        assert {n: a.tobytes() for n, a in mine.items()} == {n: a.tobytes() for n, a in theirs.items()}
        assert {a.dtype for a in mine.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("changed", [{"dropout": 0.5}, {"alpha": 4.0}, {"rank": 3}, {"layers": 1}])
def test_every_field_of_the_shape_matters(changed: dict[str, float]) -> None:
    assert train(engine_of(LoraShape(**{"rank": 2, **changed})), 1, 3) != train(engine_of(), 1, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [{"learning_rate": 0.01}, {"weight_decay": 0.5}, {"clip": 1e-9}])
def test_every_setting_of_a_step_matters(changed: dict[str, float]) -> None:
    def arrays(**more: float) -> bytes:
        engine = engine_of()
        engine.step(BATCHES, StepSettings(**{"step": 1, "learning_rate": 0.05, **more}))  # type: ignore[arg-type]
        return b"".join(a.tobytes() for a in engine.adapter_arrays().values())

    assert arrays(**changed) != arrays()


def test_a_planted_nan_comes_once_and_updates_nothing() -> None:
    engine = engine_of(nan_at=3)
    train(engine, 1, 2)
    before = engine.adapter_arrays()
    assert np.isnan(engine.step(BATCHES, StepSettings(3, 0.05)).loss)
    for name, array in engine.adapter_arrays().items():
        np.testing.assert_array_equal(array, before[name])
    assert np.isfinite(train(engine, 4, 4)[0])


def test_a_planted_divergence_raises_training_and_held_out_loss() -> None:
    engine = engine_of(diverge_at=11)
    good = train(engine, 1, 10)
    held_out = engine.losses(BATCHES[0])[0].sum()
    bad = train(engine, 11, 16)
    assert bad[-1] > 10 * good[-1]
    assert bad[1:] == sorted(bad[1:])
    assert np.isfinite(bad[-1])
    assert engine.losses(BATCHES[0])[0].sum() > 2 * held_out


def test_text_is_greedy_or_drawn_by_seed_and_ends_at_a_stop() -> None:
    engine = engine_of(LoraShape(rank=8))
    for step in range(1, 200):
        engine.step(BATCHES[1:], StepSettings(step, 0.02))
    seen: list[tuple[int, int]] = []
    out = engine.generate([[5], [7]], max_new_tokens=3, stop=frozenset({9}), on_token=lambda *at: seen.append(at))
    assert [(g.ids, g.stopped) for g in out] == [([6, 7, 8], False), ([8], True)]
    assert seen == [(0, 6), (0, 7), (0, 8), (1, 8)]

    def draw(seed: int) -> list[int]:
        return engine.generate([[5]], max_new_tokens=20, stop=frozenset(), temperature=5.0, seed=seed)[0].ids

    assert draw(1) == draw(1) != draw(2)


def test_ids_of_a_larger_vocabulary_are_folded() -> None:
    engine = engine_of()
    np.testing.assert_array_equal(engine.logits([64 + 5]), engine.logits([5]))
    assert engine.logits([5]).shape == (1, 64)


def test_losses_are_those_of_the_logits() -> None:
    engine = engine_of()
    train(engine, 1, 2)
    logits = engine.logits(ROWS[0][0]).astype(np.float64)
    nll = np.log(np.exp(logits).sum(-1))[:-1] - logits[np.arange(4), ROWS[0][0][1:]]
    assert engine.losses(Batch.of(ROWS[:1]))[0][0] == pytest.approx(nll.sum(), abs=1e-5)


def test_mistakes_are_said_in_words() -> None:
    with pytest.raises(EngineError, match="add_adapter"):
        FakeEngine().step(BATCHES, StepSettings(1, 0.05))
    engine = engine_of()
    with pytest.raises(TrainingError, match="no row with a token to learn"):
        engine.step([Batch.of([([1, 2], [False, False])])], StepSettings(1, 0.05))
    with pytest.raises(EngineError, match="another adapter"):
        engine.load_adapter_arrays({})
    assert engine.memory() > 0
