"""The loss: the head only where something is learned, a slice of the vocabulary at a time, and its gradient with it.

The cores divide the vocabulary and not the predictions, or each of them would have to read the whole head; a slice is
so small that its logits stay in the core's cache, and none are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tunesmith.engines.needs import HEAD_ROWS, HEAD_WORDS
from tunesmith.engines.torch_cores import Cores
from tunesmith.engines.torch_pack import Packed


class Measured(NamedTuple):
    """Losses of a pack's predictions (float32 [learned], nats), and their gradient for the states that make them
    (float32 [predictions, width]), if it was asked for."""

    losses: Tensor
    gradient: Tensor | None


@torch.no_grad()
def measure(
    head: Tensor, packs: Sequence[Packed], hidden: Sequence[Tensor], cores: Cores, *, wanted: bool = False
) -> list[Measured]:
    """Every pack's predictions under the head [vocabulary, width], of their states [predictions, width]."""
    words = HEAD_WORDS if cores.count > 1 else len(head)
    states, targets = torch.cat(list(hidden)), torch.cat([packed.ids[packed.at + 1] for packed in packs])
    losses, gradients = list[Tensor](), list[Tensor]()
    for some, wished in zip(states.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
        jobs = [(some, wished, head[i : i + words], i, wanted) for i in range(0, len(head), words)]
        loss, gradient = together(list(cores.each(lambda job: slice_of(*job), jobs)), wished, head)
        losses.append(loss)
        gradients += [] if gradient is None else [gradient]
    sizes = [len(packed.at) for packed in packs]
    by_pack = torch.cat(gradients).split(sizes) if wanted else [None] * len(packs)
    return [_without_padding(*each) for each in zip(packs, torch.cat(losses).split(sizes), by_pack, strict=True)]


def _without_padding(packed: Packed, losses: Tensor, gradient: Tensor | None) -> Measured:
    learned = int(packed.learn.sum())
    if gradient is not None:
        gradient[learned:] = 0
    return Measured(losses[:learned], gradient)


class Slice(NamedTuple):
    """What one slice of the vocabulary says of n predictions; float32. ``whole`` [n]: logarithm of its summed
    exponentials; ``target`` [n]: the target's logit, 0 where it is in another slice; ``pull`` [n, width]: the slice's
    words but the target, weighed by their probabilities inside the slice, or None."""

    whole: Tensor
    target: Tensor
    pull: Tensor | None


def slice_of(hidden: Tensor, targets: Tensor, head: Tensor, first: int, wanted: bool) -> Slice:
    """The head [words, width] from word ``first`` on, applied to hidden [n, width] whose targets [n] are known."""
    logits = hidden @ head.t()
    p = torch.softmax(logits, -1, dtype=torch.float32)
    # The largest logit has the probability exp(it - whole); no other pass over all words is needed for that.
    whole = logits.amax(-1).float() - p.amax(-1).log_()
    inside = (targets >= first) & (targets < first + len(head))
    own = torch.where(inside, targets - first, 0)[:, None]
    target = torch.where(inside, logits.gather(1, own)[:, 0].float(), 0.0)
    if not wanted:
        return Slice(whole, target, None)
    p.scatter_(1, own, torch.where(inside[:, None], 0.0, p.gather(1, own)))
    return Slice(whole, target, (p.to(head.dtype) @ head).float())


def together(slices: Sequence[Slice], targets: Tensor, head: Tensor) -> tuple[Tensor, Tensor | None]:
    """Negative log-likelihood (float32 [n], nats) of the targets, of all slices of the vocabulary together, and its
    gradient for the hidden states [n, width] where the slices have it.

    The target's own part of the gradient is p - 1 = expm1(-loss), taken in float32: in bf16 nothing would be left of
    it for words that are nearly sure.
    """
    whole = torch.logsumexp(torch.stack([s.whole for s in slices]), 0)
    losses = whole - sum(s.target for s in slices)
    gradient = torch.expm1(-losses)[:, None] * head[targets].float()
    for s in slices:
        if s.pull is None:
            return losses, None
        gradient.addcmul_(s.pull, (s.whole - whole).exp_()[:, None])
    return losses, gradient
