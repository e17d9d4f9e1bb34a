"""Rows behind each other in one sequence, with no padding between them; only attention tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from tunesmith.engines.base import Batch


@dataclass(frozen=True)
class Block:
    """Rows of like length, which attention takes together: where each lies, and the places that each takes."""

    rows: list[slice]
    length: int


@dataclass(frozen=True)
class Packed:
    """Rows one behind the other, the longest first; the tokens behind the last are padding.

    ids: int64 [tokens]; learn: bool [tokens]; row: int64 [tokens], which of the rows given.
    """

    ids: Tensor
    learn: Tensor
    row: Tensor
    blocks: list[Block]
    at: Tensor
    """int64 [predictions], the places behind which a learned token stands; their number is padded, too, with the
    first position."""
    positions: Tensor
    """int64 [tokens], of each in its row."""
    states: Tensor | None = None
    """What enters the lowest trained layer [tokens, width], where it is known."""


def pack(batch: Batch, rows: Sequence[int], multiple: int, device: torch.device) -> Packed:
    """Some rows of a batch. Their number of tokens, and the places of each, is the next multiple of ``multiple``."""
    lengths = [int(batch.lengths[row]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    rest = -sum(lengths) % multiple

    def joined(whole: np.ndarray) -> Tensor:
        parts = [whole[rows[i], : lengths[i]] for i in order]
        parts.append(np.zeros((rest, *whole.shape[2:]), whole.dtype))
        return torch.from_numpy(np.concatenate(parts)).to(device)

    learn = joined(batch.learn)
    (at,) = learn.nonzero(as_tuple=True)  # a row's first is never learned: nothing predicts it
    return Packed(
        ids=joined(batch.ids).long(),
        learn=learn,
        row=torch.tensor(np.repeat(order, [lengths[i] for i in order]).tolist() + [0] * rest, device=device),
        blocks=_blocks([lengths[i] for i in order], multiple),
        positions=torch.tensor([i for row in order for i in range(lengths[row])] + [0] * rest, device=device),
        at=torch.cat([at - 1, at.new_zeros(-len(at) % multiple)]),
        states=None if batch.states is None else joined(batch.states),
    )


def _blocks(lengths: list[int], multiple: int) -> list[Block]:
    ends = np.cumsum(lengths).tolist()
    rows = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    places = [-(-length // multiple) * multiple for length in lengths]
    grouped = groupby(zip(places, rows, strict=True), lambda pair: pair[0])
    return [Block([row for _, row in group], length) for length, group in grouped]
