"""Several ranks give what one process gives: losses, adapter, checkpoints and the states of frozen layers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from threads import ThreadRanks, together
from tiny import rows, tiny

from tunesmith.dataset.store import Tokens
from tunesmith.dataset.tokens import Sequence
from tunesmith.engines.base import Engine, LoraShape, StepSettings
from tunesmith.engines.fake import WIDTH, FakeEngine
from tunesmith.engines.ranks import ALONE
from tunesmith.engines.torch_engine import TorchEngine
from tunesmith.errors import EngineError, TrainingError
from tunesmith.models.architecture import read_architecture
from tunesmith.settings import TrainSettings
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.training import prefix as prefixes
from tunesmith.training.checkpoints import Checkpoints, adapter_config
from tunesmith.training.loop import Loop, Rows
from tunesmith.training.order import divide
from tunesmith.training.prefix import Plan, Prefix

SHAPE = LoraShape(rank=4)


def tokens(taken: list[tuple[list[int], list[bool]]]) -> Tokens:
    example = Example((Message("text", "x", True),), Origin("f", 1))
    return Tokens.of([Sequence(ids, learn, example) for ids, learn in taken])


TRAIN, VALID = tokens(rows(40, seed=3)), tokens(rows(7, seed=4))


def torch_engine(ranks: Any = ALONE) -> Engine:
    folder = tiny("llama")
    engine = TorchEngine(folder, read_architecture(folder), "fp32", ranks=ranks)
    engine.add_adapter(SHAPE, 0)
    return engine


def fake_engine(ranks: Any = ALONE) -> Engine:
    engine = FakeEngine(ranks=ranks)
    engine.add_adapter(SHAPE, 0)
    return engine


class Trained:
    def __init__(self, engine: Engine, folder: Path, train: Tokens = TRAIN, until: int = 10**9, **settings: Any):
        chosen = TrainSettings.model_validate({"batch": 4, "learning_rate": 1e-3, "steps": 50, **settings})
        config = adapter_config(SHAPE, 2, "tiny")
        self.loop = Loop(engine, Rows(train, VALID), chosen, Checkpoints(folder), config, lambda: False)
        self.loop.stop = lambda: self.loop.state.step >= until
        self.events = list(self.loop.run())
        self.adapter = engine.adapter_arrays()

    def losses(self, event: str = "step") -> list[float]:
        return [e.loss for e in self.events if e.event == event and e.loss is not None]


def same(a: Trained, b: Trained) -> None:
    for event in ("step", "validation"):
        np.testing.assert_allclose(a.losses(event), b.losses(event), atol=1e-5, rtol=0)
    for name, array in a.adapter.items():
        np.testing.assert_allclose(array, b.adapter[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("open_engine", [torch_engine, fake_engine])
def test_two_and_three_ranks_take_the_fifty_steps_of_one_process(open_engine: Callable[..., Engine], tmp_path: Path):
    alone = Trained(open_engine(), tmp_path / "1")
    assert len(alone.losses()) == 50
    for size in (2,) if open_engine is torch_engine else (2, 3):
        found = together(size, lambda ranks: Trained(open_engine(ranks), tmp_path / f"{ranks.size}"))
        for rank in found:
            same(alone, rank)
        for name, array in found[0].adapter.items():
            np.testing.assert_array_equal(array, found[1].adapter[name])
        assert Checkpoints(tmp_path / f"{size}").steps() == Checkpoints(tmp_path / "1").steps()


def test_a_training_goes_on_under_another_number_of_processes(tmp_path: Path):
    alone = Trained(torch_engine(), tmp_path / "1")
    first = together(3, lambda ranks: Trained(torch_engine(ranks), tmp_path / "n", until=20))[0]
    second = Trained(torch_engine(), tmp_path / "n", until=35)
    third = together(2, lambda ranks: Trained(torch_engine(ranks), tmp_path / "n"))[1]
    assert third.events[0].message == "continued after step 35"
    third.events = [*first.events, *second.events, *third.events]
    same(alone, third)


@pytest.mark.parametrize("open_engine", [torch_engine, fake_engine])
def test_a_rank_without_rows_or_without_a_token_to_learn_takes_part(open_engine: Callable[..., Engine], tmp_path: Path):
    train = tokens([*rows(5, seed=5), ([5, 6, 7], [False] * 3)])
    alone = Trained(open_engine(), tmp_path / "1", train, batch=2, steps=9, seed=1)
    for rank in together(3, lambda ranks: Trained(open_engine(ranks), tmp_path / "3", train, batch=2, steps=9, seed=1)):
        same(alone, rank)


def test_a_step_in_which_no_rank_learns_anything_is_refused_by_all(tmp_path: Path):
    nothing = tokens([([5, 6, 7], [False] * 3)] * 4)
    with pytest.raises(TrainingError, match="step 1"):
        together(2, lambda ranks: Trained(fake_engine(ranks), tmp_path, nothing))


def test_one_rank_that_fails_ends_all(tmp_path: Path):
    def one(ranks: ThreadRanks) -> None:
        engine = fake_engine(ranks)
        if ranks.rank == 1:
            engine.losses = lambda *_, **__: (_ for _ in ()).throw(EngineError("the card is gone"))  # type: ignore[method-assign]
        Trained(engine, tmp_path)

    with pytest.raises(EngineError, match="the card is gone"):
        together(2, one)


def test_each_rank_drops_other_inputs_and_the_first_those_of_a_process_alone():
    step = StepSettings(step=3, learning_rate=0.1, seed=5)
    draws = {tuple(step.entropy(rank, 0, part).generate_state(2)) for rank in range(3) for part in range(2)}
    assert len(draws) == 6
    assert tuple(np.random.SeedSequence([5, 3, 0, 1]).generate_state(2)) in draws


def test_rows_are_divided_by_their_tokens():
    lengths = np.array([100, 10, 20, 30, 40])
    assert divide([0, 1, 2, 3, 4], lengths, 2) == [[0], [1, 2, 3, 4]]
    assert divide([3], lengths, 3) == [[3], [], []]


# -- the states of frozen layers -----------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prefixes, "FILL", 16)


def filled(ranks: ThreadRanks) -> tuple[Prefix | None, list[bytes], list[str]]:
    engine, computed, notes = fake_engine(ranks), list[bytes](), list[str]()
    states = engine.prefix

    def counted(taken: Any) -> Any:
        computed.extend(np.asarray(row).tobytes() for row in taken)
        return states(taken)

    engine.prefix = counted  # type: ignore[method-assign]
    plan = Plan("train", "m", 1, WIDTH, [TRAIN[i][0] for i in range(len(TRAIN))], 3).carry_out(engine, lambda: False)
    while True:
        try:
            notes.append(next(plan).message)
        except StopIteration as end:
            return end.value, computed, notes


def test_every_row_goes_through_the_frozen_layers_of_one_rank_and_all_find_it(cache: None):
    found = together(3, filled)
    computed = [one for _, mine, _ in found for one in mine]
    assert len(computed) == len(set(computed)) == len(TRAIN)
    assert all(len(mine) > 5 for _, mine, _ in found)
    for prefix, _, _ in found:
        assert prefix is not None
        for ids in (TRAIN[i][0] for i in range(len(TRAIN))):
            states = prefix.of(ids)
            assert states is not None
            np.testing.assert_array_equal(states, fake_engine().prefix([ids])[0])


def test_a_disk_that_is_full_for_the_rank_that_writes_is_known_to_all(cache: None, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefixes.os, "fsync", full)
    for prefix, _, notes in together(2, filled):
        assert prefix is None
        assert "cannot be kept" in notes[-1]
