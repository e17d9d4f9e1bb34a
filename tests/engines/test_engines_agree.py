"""Torch and MLX are the same engine: same losses, same adapters, same text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("torch")

import tiny
from reference import one_thread

from tunesmith.engines.base import Batch, Engine, LoraShape, StepSettings
from tunesmith.engines.fake import FakeEngine
from tunesmith.engines.mlx_engine import MlxEngine
from tunesmith.engines.torch_engine import TorchEngine
from tunesmith.engines.writing import shared_beginning
from tunesmith.models.architecture import read_architecture

IDS = list(range(20, 50))


@pytest.fixture(autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


def both(family: str, shape: LoraShape | None = None) -> tuple[Engine, Engine]:
    folder = tiny.tiny(family)
    arch = read_architecture(folder)
    kinds: tuple[Any, Any] = (TorchEngine, MlxEngine)
    torch_engine, mlx_engine = (kind(folder, arch, dtype="fp32") for kind in kinds)
    if shape:
        torch_engine.add_adapter(shape, 3)
        mlx_engine.add_adapter(shape, 3)
    return torch_engine, mlx_engine


def settings(step: int) -> StepSettings:
    return StepSettings(step=step, learning_rate=5e-3 * (1 - step / 100), weight_decay=0.01)


def train(engine: Engine, first: int, last: int) -> list[float]:
    plan = tiny.steps(last)
    return [engine.step(plan[i], settings(i + 1)).loss for i in range(first, last)]


@pytest.mark.parametrize("layers", [None, 2])
def test_thirty_losses_are_the_same(layers: int | None) -> None:
    engines = both("llama", LoraShape(rank=4, alpha=8, layers=layers))
    for i, micro_batches in enumerate(tiny.steps(30), start=1):
        a, b = (engine.step(micro_batches, settings(i)) for engine in engines)
        assert a.loss == pytest.approx(b.loss, abs=1e-5), i
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3), i
        assert a.tokens == b.tokens


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_trains_and_measures_the_same(family: str) -> None:
    engines = both(family, LoraShape(rank=4, alpha=8))
    a, b = (train(engine, 0, 4) for engine in engines)
    assert a == pytest.approx(b, abs=1e-5)
    for adapter in (True, False):
        (sums, counts), (sums_b, counts_b) = (
            e.losses(Batch.of(tiny.rows(5, seed=4)), adapter=adapter) for e in engines
        )
        np.testing.assert_array_equal(counts, counts_b)
        np.testing.assert_allclose(sums, sums_b, rtol=1e-4, atol=1e-4)


def test_adapters_have_one_layout_and_load_both_ways() -> None:
    shape = LoraShape(rank=4, alpha=8, modules=("q_proj", "o_proj", "down_proj"), layers=3)
    engines = both("llama", shape)
    for one in engines:
        train(one, 0, 3)
    a, b = (engine.adapter_arrays() for engine in engines)
    assert list(a) == list(b)
    assert [x.shape for x in a.values()] == [x.shape for x in b.values()]
    assert {x.dtype for x in [*a.values(), *b.values()]} == {np.dtype(np.float32)}
    for source, target in (engines, engines[::-1]):
        fresh = both("llama", shape)[0 if target.name == "torch" else 1]
        fresh.load_adapter_arrays(source.adapter_arrays())
        np.testing.assert_allclose(fresh.logits(IDS), source.logits(IDS), atol=1e-4)


def test_training_changes_engines_in_the_middle() -> None:
    shape = LoraShape(rank=4)
    engines = both("llama", shape)
    for source, target in (engines, engines[::-1]):
        source.add_adapter(shape, 3)
        train(source, 0, 5)
        target.add_adapter(shape, 99)
        target.load_adapter_arrays(source.adapter_arrays())
        target.load_optimizer_arrays(source.optimizer_arrays(), 5)
        assert train(target, 5, 10) == pytest.approx(train(source, 5, 10), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_greedy_text_is_the_same(family: str) -> None:
    prompts = [row for row, _ in tiny.rows(4, seed=8, longest=14)]
    a, b = (e.generate(prompts, max_new_tokens=10, stop=frozenset({7})) for e in both(family))
    assert a == b


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("endings", [(3, 5, 1, 9), (1, 30)], ids=["near", "one much longer than the beginning"])
def test_what_prompts_begin_with_is_read_once_and_changes_nothing(family: str, endings: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    beginning = rng.integers(8, tiny.VOCABULARY, 21).tolist()
    prompts = [beginning + rng.integers(8, tiny.VOCABULARY, n).tolist() for n in endings]
    assert shared_beginning(prompts) == len(beginning)
    for engine in both(family, LoraShape(rank=4)):
        train(engine, 0, 3)
        alone = [engine.generate([p], max_new_tokens=8, stop=frozenset())[0] for p in prompts]
        assert engine.generate(prompts, max_new_tokens=8, stop=frozenset()) == alone


@pytest.mark.parametrize("family", ["llama", "gemma3", "fake"])
def test_endings_behind_a_prompt_cost_what_whole_rows_do(family: str) -> None:
    rng = np.random.default_rng(5)
    prompts, *pieces = (
        [rng.integers(8, 64, n).tolist() for n in lengths] for lengths in ((3, 30, 17), (4, 1), (2, 9, 0), (1, 1))
    )
    endings = [[prompts[0], *pieces[0]], pieces[1], pieces[2]]
    engines: list[Engine] = [FakeEngine()] if family == "fake" else list(both(family))
    for engine in engines:
        engine.add_adapter(LoraShape(rank=4), 3)
        train(engine, 0, 3)
        for adapter in (True, False):
            found = engine.ending_losses(prompts, endings, adapter=adapter)
            for prompt, each, losses in zip(prompts, endings, found, strict=True):
                rows = [(prompt + one, [False] * len(prompt) + [True] * len(one)) for one in each]
                alone = [engine.losses(Batch.of([row]), adapter=adapter)[0][0] for row in rows]
                np.testing.assert_allclose(losses, alone, rtol=1e-6, atol=1e-5)


def test_a_beginning_that_is_all_of_a_prompt_leaves_its_last_token() -> None:
    assert shared_beginning([list(range(40)), list(range(40))]) == 39
    assert shared_beginning([list(range(40)), list(range(30))]) == 29
    assert shared_beginning([list(range(40))]) == 0
    assert shared_beginning([[1, *range(40)], [2, *range(40)]]) == 0
