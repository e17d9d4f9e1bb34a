"""What comes below the trained layers, computed once and brought along, changes nothing but the time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("torch")

import tiny
from reference import one_thread

from tunesmith.engines.base import Batch, LoraShape, StepSettings
from tunesmith.engines.fake import FakeEngine
from tunesmith.engines.mlx_engine import MlxEngine
from tunesmith.engines.torch_engine import TorchEngine
from tunesmith.models.architecture import read_architecture

SHAPE = LoraShape(rank=4, alpha=8, layers=1)


@pytest.fixture(autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


def opened(kind: Any, family: str = "llama", dtype: str = "fp32", above: int = 0) -> Any:
    folder = tiny.tiny(family)
    arch = read_architecture(folder)
    engine = kind(folder, arch, dtype=dtype, above=above)
    engine.add_adapter(SHAPE, 3)
    return engine


def with_states(engine: Any, batch: Batch) -> Batch:
    rows = [(ids[:n], learn[:n]) for ids, learn, n in zip(batch.ids, batch.learn, batch.lengths, strict=True)]
    return Batch.of(rows, engine.prefix([ids for ids, _ in rows]))


def settings(step: int) -> StepSettings:
    return StepSettings(step=step, learning_rate=5e-3)


@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_steps_and_losses_are_the_same_with_and_without(kind: Any, family: str) -> None:
    whole, short = opened(kind, family), opened(kind, family)
    for i, batches in enumerate(tiny.steps(6), start=1):
        a = whole.step(batches, settings(i))
        b = short.step([with_states(short, batch) for batch in batches], settings(i))
        assert a.loss == pytest.approx(b.loss, abs=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
    batch = tiny.steps(1)[0][0]
    for adapter in (True, False):
        without, _ = whole.losses(batch, adapter=adapter)
        brought, _ = short.losses(with_states(short, batch), adapter=adapter)
        np.testing.assert_allclose(brought, without, atol=2e-4)


@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])
def test_layers_that_are_read_when_needed_give_the_same(kind: Any) -> None:
    kept, streamed = opened(kind), opened(kind, above=read_architecture(tiny.tiny("llama")).layers - 1)
    rows = [np.arange(20, 50), np.arange(7, 12), np.arange(3, 90)]
    for a, b in zip(kept.prefix(rows), streamed.prefix(rows), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(kept.logits([5, 6, 7]), streamed.logits([5, 6, 7]), atol=1e-6)
    assert streamed.prefix(rows)[1].shape == (5, kept.prefix(rows)[1].shape[1])


@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])
def test_states_in_bf16_are_its_bits(kind: Any) -> None:
    engine = opened(kind, dtype="bf16")
    assert engine.precision == "bf16"
    batch = tiny.steps(1)[0][0]
    brought = with_states(engine, batch)
    assert brought.states is not None
    assert brought.states.dtype == np.uint16
    a, b = engine.losses(batch)[0], engine.losses(brought)[0]
    np.testing.assert_allclose(a, b, rtol=2e-2)


def test_padding_keeps_states_with_their_tokens() -> None:
    engine = FakeEngine()
    engine.add_adapter(LoraShape(rank=2), 0)
    rows = [(np.arange(1, 9), np.ones(8, bool)), (np.arange(4, 7), np.ones(3, bool))]
    batch = Batch.of(rows, engine.prefix([ids for ids, _ in rows]))
    engine.losses(batch)
    with pytest.raises(AssertionError, match="other tokens"):
        engine.losses(replace(batch, ids=batch.ids[::-1]))
