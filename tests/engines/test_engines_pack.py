"""How rows are put together: behind each other on torch, in groups of like length on mlx."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from tunesmith.engines.base import Batch, LoraShape, StepSettings, iterate_by_padding
from tunesmith.engines.torch_engine import FEW_SHAPES, TorchEngine
from tunesmith.engines.torch_head import slice_of, together
from tunesmith.engines.torch_pack import Packed, pack
from tunesmith.models.architecture import read_architecture

CPU = torch.device("cpu")


def packed(lengths: list[int], rows: list[int] | None = None, multiple: int = FEW_SHAPES) -> tuple[Batch, Packed]:
    rng = np.random.default_rng(0)
    batch = Batch.of([(rng.integers(1, 99, n), rng.random(n) < 0.5) for n in lengths])
    return batch, pack(batch, range(len(lengths)) if rows is None else rows, multiple, CPU)


def test_every_token_of_every_row_is_there_once_and_knows_its_row() -> None:
    lengths, chosen = [5, 40, 17, 16, 3], [4, 1, 2, 3]
    batch, found = packed(lengths, chosen)
    assert len(found.ids) % FEW_SHAPES == 0
    spans = [row for block in found.blocks for row in block.rows]
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    for span in spans:
        row = chosen[int(found.row[span.start])]
        assert span.stop - span.start == lengths[row]
        np.testing.assert_array_equal(found.ids[span], batch.ids[row, : lengths[row]])
        np.testing.assert_array_equal(found.learn[span], batch.learn[row, : lengths[row]])
        assert (found.row[span] == chosen.index(row)).all()
    assert not found.learn[spans[-1].stop :].any()


def test_rows_of_like_length_share_a_block() -> None:
    _, found = packed([20, 33, 30, 17, 40])
    assert [(len(block.rows), block.length) for block in found.blocks] == [(2, 48), (3, 32)]


def test_batches_in_any_order_pad_under_three_percent() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 2000).tolist()
    folder = tiny.tiny("llama")
    engine = TorchEngine(folder, read_architecture(folder), "fp32")
    engine._cores.count = 2
    padded = 0
    for at in range(0, 2000, 8):
        batch = packed(lengths[at : at + 8], [0])[0]
        batch.learn[:, 1] = True
        padded += sum(len(pack(batch, rows, FEW_SHAPES, CPU).ids) for rows in engine._parts(batch))
    assert 1 - sum(lengths) / padded < 0.03


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_what_stands_behind_a_row_or_before_it_changes_nothing(family: str) -> None:
    folder = tiny.tiny(family)
    engine = TorchEngine(folder, read_architecture(folder), "fp32")
    engine._cores.count = 1
    engine.add_adapter(LoraShape(rank=4), 0)
    rows = [*tiny.rows(3, seed=3, longest=40), *tiny.rows(2, seed=4, longest=9)]
    together, _ = engine.losses(Batch.of(rows))
    alone = [engine.losses(Batch.of([row]))[0][0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_groups_are_cut_where_that_spares_padding() -> None:
    assert list(iterate_by_padding([10, 200, 12, 190], 100)) == [[1, 3], [2, 0]]
    assert list(iterate_by_padding([10, 200, 12, 190], 1000)) == [[1, 3, 2, 0]]
    assert list(iterate_by_padding([7, 7, 7], 1)) == [[0, 1, 2]]
    everything = [i for group in iterate_by_padding(list(range(1, 60)), 40) for i in group]
    assert sorted(everything) == list(range(59))


@pytest.mark.parametrize("words", [7, 64, 1000])
def test_slices_of_the_vocabulary_give_the_loss_and_the_gradient_of_the_whole(words: int) -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(5, 8), torch.randn(99, 8), torch.tensor([0, 98, 7, 63, 64])
    hidden[0] = 40 * head[0]  # as good as sure
    known = hidden.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(known @ head.double().t(), targets, reduction="none")
    losses.sum().backward()
    slices = [slice_of(hidden, targets, head[i : i + words], i, wanted=True) for i in range(0, 99, words)]
    found, grads = together(slices, targets, head)
    torch.testing.assert_close(found.double(), losses.detach(), atol=1e-5, rtol=1e-5)
    assert grads is not None
    torch.testing.assert_close(grads.double(), known.grad, atol=1e-5, rtol=1e-5)


def test_cores_together_measure_and_learn_what_one_alone_does() -> None:
    folder, rows = tiny.tiny("llama"), tiny.rows(7, seed=3, longest=40)
    engines = [TorchEngine(folder, read_architecture(folder), "fp32") for _ in range(2)]
    for engine, cores in zip(engines, (1, 3), strict=True):
        engine._cores.count = cores
        engine.add_adapter(LoraShape(rank=4), 0)
        for step in range(3):
            engine.step([Batch.of(rows)], StepSettings(step + 1, 1e-2))
    alone, together = (engine.losses(Batch.of(rows))[0] for engine in engines)
    np.testing.assert_allclose(together, alone, rtol=1e-4)
