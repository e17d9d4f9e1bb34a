from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tunesmith.dataset.store import Tokens
from tunesmith.dataset.tokens import Sequence
from tunesmith.engines.base import Batch, LoraShape
from tunesmith.engines.fake import FakeEngine
from tunesmith.errors import TrainingError
from tunesmith.settings import TrainSettings
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.training.checkpoints import Checkpoints, adapter_config
from tunesmith.training.loop import Loop, Rows, mean_loss
from tunesmith.training.order import Order, epoch_batches
from tunesmith.training.schedule import learning_rate

SHAPE = LoraShape(rank=2, modules=("q_proj", "v_proj"))


def sequences(count: int, seed: int = 0) -> list[Sequence]:
    rng = np.random.default_rng(seed)
    example = Example((Message("text", "x", True),), Origin("f", 1))
    rows = []
    for _ in range(count):
        start, length = int(rng.integers(60)), int(rng.integers(4, 12))
        ids = [(start + i) % 60 for i in range(length)]  # counting: easy to learn
        rows.append(Sequence(ids, [i >= length // 2 for i in range(length)], example))
    return rows


def loop(folder: Path, engine: FakeEngine | None = None, valid: int = 6, **settings: object) -> Loop:
    engine = engine or FakeEngine()
    engine.add_adapter(SHAPE, 0)
    rows = Rows(Tokens.of(sequences(21)), Tokens.of(sequences(valid, 1)))
    made = TrainSettings(**{"epochs": 4, "batch": 4, "learning_rate": 0.01, **settings})
    return Loop(engine, rows, made, Checkpoints(folder), adapter_config(SHAPE, 2, "fake"))


def test_training_lowers_the_held_out_loss_and_finishes(tmp_path):
    trained = loop(tmp_path)
    events = list(trained.run())
    validations = [e.loss for e in events if e.event == "validation"]
    assert validations[-1] < validations[0]
    assert trained.finished
    assert trained.state.step == 4 * 6  # 21 rows in batches of 4: the last partial batch counts


def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_own():
    first, second = (epoch_batches(103, 8, 3, epoch) for epoch in (0, 1))
    for batches in (first, second):
        assert sorted(i for batch in batches for i in batch) == list(range(103))
    assert first != second
    assert first == epoch_batches(103, 8, 3, 0)


def test_steps_find_their_rows_again_after_a_restart():
    forward = Order(30, 4, 0)
    rows = [forward.rows(step) for step in range(1, 20)]
    assert [Order(30, 4, 0).rows(step) for step in range(1, 20)] == rows


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_falls(kind):
    rates = [learning_rate(step, 100, 1.0, 0.1, kind) for step in range(1, 101)]
    assert rates[:10] == [pytest.approx(i / 10) for i in range(1, 11)]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == (1.0 if kind == "constant" else pytest.approx(0, abs=0.02))
    assert rates[-1] > 0  # no step is wasted


def test_accumulation_is_weighted_by_tokens(tmp_path):
    adapters = []
    for micro in (None, 1, 3):
        run = loop(tmp_path / str(micro), micro_batch=micro, steps=5)
        list(run.run())
        adapters.append(run.engine.adapter_arrays())
    for other in adapters[1:]:
        for name, array in adapters[0].items():
            np.testing.assert_allclose(other[name], array, atol=1e-6)


def test_the_best_checkpoint_is_chosen_not_the_last(tmp_path):
    run = loop(tmp_path, FakeEngine(diverge_at=13), validate_every=3, steps=18)
    list(run.run())
    assert run.state.best_step == min(run.state.losses, key=run.state.losses.__getitem__) == 12
    run.checkpoints.publish(run.state.best_step, tmp_path / "adapter")
    best = (tmp_path / "step-000012" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == best


def test_training_stops_early_when_nothing_gets_better(tmp_path):
    run = loop(tmp_path, FakeEngine(diverge_at=7), validate_every=2, patience=2, epochs=100)
    list(run.run())
    assert run.finished
    assert run.state.step == 10


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path):
    run = loop(tmp_path, FakeEngine(nan_at=8), validate_every=3)
    with pytest.raises(TrainingError, match=r"became nan at step 8; the adapter of step 6 is kept.*learning_rate"):
        list(run.run())
    assert Checkpoints(tmp_path).latest() == 6


def test_a_loss_that_grows_without_end_stops(tmp_path):
    run = loop(tmp_path, FakeEngine(diverge_at=5), epochs=200)
    with pytest.raises(TrainingError, match="diverges"):
        list(run.run())


def test_without_validation_rows_the_last_step_is_the_result(tmp_path):
    run = loop(tmp_path, valid=0)
    list(run.run())
    assert run.state.best_step == run.steps


def test_asked_to_stop_it_saves_and_goes_on_from_there(tmp_path):
    run = loop(tmp_path)
    asked = iter([False] * 7 + [True] * 99)
    run.stop = lambda: next(asked)
    list(run.run())
    assert not run.finished
    assert Checkpoints(tmp_path).latest() == 7
    again = loop(tmp_path)
    events = list(again.run())
    assert events[0].message == "continued after step 7"
    whole = loop(tmp_path / "whole")
    list(whole.run())
    assert same(again, whole)


def same(one: Loop, other: Loop) -> bool:
    a, b = one.engine.adapter_arrays(), other.engine.adapter_arrays()
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    run = loop(tmp_path / "a", validate_every=5)
    list(run.run())
    last = tmp_path / "a" / f"step-{run.steps:06d}" / "optimizer.safetensors"
    last.write_bytes(last.read_bytes()[:-7])
    assert Checkpoints(tmp_path / "a").latest() == 20
    again = loop(tmp_path / "a", validate_every=5)
    list(again.run())
    assert same(again, run)


def test_checkpoints_that_only_guard_against_a_crash_go_away(tmp_path):
    run = loop(tmp_path, validate_every=10, save_minutes=1e-9)
    list(run.run())
    assert Checkpoints(tmp_path).steps() == [10, 20, 23, 24]
    assert Checkpoints(tmp_path).milestones() == [10, 20, 24]
    assert not (tmp_path / "step-000010" / "optimizer.safetensors").exists()


def test_the_mean_loss_counts_tokens_not_rows(tmp_path):
    engine = FakeEngine()
    engine.add_adapter(SHAPE, 0)
    rows = sequences(9)
    total = sum(engine.losses(Batch.of([(r.ids, r.learn)]))[0].sum() for r in rows)
    assert mean_loss(engine, Tokens.of(rows), 4) == pytest.approx(total / sum(r.learned for r in rows))


def test_the_adapter_config_is_pefts(tmp_path):
    config = adapter_config(LoraShape(rank=4, layers=2, modules=("q_proj",)), 6, "base")
    assert config["layers_to_transform"] == [4, 5]
    assert json.loads(json.dumps(config)) == config
