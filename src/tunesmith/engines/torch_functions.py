"""The functions a decoder is made of, each with its own way back.

Why not autograd's: on a CPU it computes in many small passes over memory what these do in few.
Measured on 2 cores, bf16, 8 rows of 138 tokens, one layer of SmolLM2-135M, forward and backward:
attention 38 ms with torch's fused kernel, 5 ms here; whole steps are in docs/speed.md.
All weights of the base are frozen: no function computes a gradient for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from tunesmith.engines.needs import SCORES
from tunesmith.engines.torch_pack import Block


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b of x [tokens, in]. One token alone, as when one text is written, is a vector: torch's products of
    matrices would take nearly twice as long for it."""
    if len(x) > 1:
        return F.linear(x, weight, bias)
    y = torch.mv(weight, x[0])
    return (y if bias is None else y.add_(bias))[None]


class LoraLinear(Function):
    """y = x W^T + b + scale (drop(x) A^T) B^T.

    x [tokens, in], weight [out, in], bias [out] or None, a [rank, in], b [out, rank],
    keep None or the dropout mask [tokens, in], already divided by 1 - p.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor,
                scale: float, keep: Tensor | None) -> Tensor:  # fmt: skip
        low = linear(x if keep is None else x * keep, a, None)
        y = linear(x, weight, bias)
        if len(x) > 1:
            y.addmm_(low, b.t(), alpha=scale)
        else:
            y[0].addmv_(b, low[0], alpha=scale)
        ctx.save_for_backward(x, weight, a, b, low, keep)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low, keep = ctx.saved_tensors
        grad = grads[0]
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_b = (grad.t() @ low).mul_(ctx.scale)
        grad_a = grad_low.t() @ (x if keep is None else x * keep)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if keep is None:
                grad_x.addmm_(grad_low, a)
            else:
                grad_x.addcmul_(grad_low @ a, keep)
        return grad_x, None, None, grad_a, grad_b, None, None


class RmsNorm(Function):
    """y = w x / sqrt(mean(x²) + eps) over the last axis (Zhang & Sennrich 2019), squares summed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        rate = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(eps)).to(x.dtype)
        ctx.save_for_backward(x, weight, rate)
        return (x * rate).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rate = ctx.saved_tensors
        grad = grads[0] * weight
        along = (grad * x).sum(-1, keepdim=True, dtype=torch.float32)
        along = along.mul_(rate.float().pow(3)).div_(-x.shape[-1]).to(x.dtype)
        return grad.mul_(rate).addcmul_(x, along), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): the halves of x's last axis, rotated against each other, into ``out``."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


@dataclass(frozen=True)
class Places:
    """How a block of rows is attended: mask [length, length] of 0 and -inf."""

    block: Block
    mask: Tensor


Turns = tuple[Tensor, Tensor]
"""cos and sin [tokens, 1, size/2] of each token's position."""


class Attention(Function):
    """Causal attention inside each row, with rotary positions and grouped queries: softmax(scale q k^T + mask) v.

    qkv [tokens, heads + 2 groups, size] -> [tokens, heads * size]. Only queries, keys and values are kept, as they are
    laid out; the probabilities are computed again in the backward pass, a few heads at a time, so that memory grows
    with the length and not with its square. Queries and keys of all rows are turned together: of each row alone it
    takes several times as many, smaller operations.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: int, where: list[Places], turns: Turns, scale: float) -> Tensor:
        heads = qkv.shape[1] - 2 * groups
        turned = turn(qkv[:, :-groups], *turns, qkv.new_empty(len(qkv), heads + groups, qkv.shape[2]))
        out, kept = _unwritten(qkv, (len(qkv), heads, qkv.shape[2]), where), []
        for places in where:
            laid = [
                _laid_out(x, places.block, groups) for x in (turned[:, :heads], turned[:, heads:], qkv[:, -groups:])
            ]
            found = torch.empty_like(laid[0])
            for part, tall in _parts(laid[0], places.mask):
                p = _probabilities(laid[0][part], laid[1][part], tall, scale)
                torch.bmm(p, laid[2][part], out=found[part])
            _put_back(found, places.block, out)
            kept += laid
        ctx.save_for_backward(*turns, *kept)
        ctx.where, ctx.scale, ctx.groups, ctx.shape = where, scale, groups, qkv.shape
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tokens, count, size = ctx.shape
        groups, heads = ctx.groups, count - 2 * ctx.groups
        cos, sin, *kept = ctx.saved_tensors
        into = grads[0].new_empty(ctx.shape)
        turned = _unwritten(into, (tokens, heads + groups, size), ctx.where)
        for i, places in enumerate(ctx.where):
            q, k, v = kept[3 * i : 3 * i + 3]
            grad = _laid_out(grads[0].view(tokens, heads, size), places.block, groups)
            laid_q, laid_k, laid_v = (torch.empty_like(x) for x in (q, k, v))
            for part, tall in _parts(q, places.mask):
                p = _probabilities(q[part], k[part], tall, ctx.scale)
                torch.bmm(p.transpose(1, 2), grad[part], out=laid_v[part])
                grad_p = torch.bmm(grad[part], v[part].transpose(1, 2))
                grad_s = torch.ops.aten._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(ctx.scale)
                torch.bmm(grad_s, k[part], out=laid_q[part])
                torch.bmm(grad_s.transpose(1, 2), q[part], out=laid_k[part])
            _put_back(laid_q, places.block, turned[:, :heads])
            _put_back(laid_k, places.block, turned[:, heads:])
            _put_back(laid_v, places.block, into[:, -groups:])
        into[_end(ctx.where) :, -groups:] = 0
        turn(turned, cos, -sin, into[:, :-groups])
        return into, None, None, None, None


def _unwritten(like: Tensor, shape: tuple[int, ...], where: list[Places]) -> Tensor:
    """Room for all tokens, of which only the padding behind the last row is written yet: zero."""
    out = like.new_empty(shape)
    out[_end(where) :] = 0
    return out


def _end(where: list[Places]) -> int:
    return where[-1].block.rows[-1].stop


def _laid_out(x: Tensor, block: Block, groups: int) -> Tensor:
    """x [tokens, heads, size] as [rows * groups, heads / groups * length, size], zero where a row has ended: the query
    heads that share a key lie behind each other, so that no key is ever copied."""
    size = x.shape[-1]
    out = x.new_empty(len(block.rows), groups, x.shape[1] // groups, block.length, size)
    for to, row in zip(out, block.rows, strict=True):
        n = row.stop - row.start
        to[:, :, :n] = x[row].view(n, groups, -1, size).permute(1, 2, 0, 3)
        if n < block.length:
            to[:, :, n:] = 0
    return out.view(len(block.rows) * groups, -1, size)


def _put_back(x: Tensor, block: Block, out: Tensor) -> None:
    """The way back of `_laid_out`, into ``out`` [tokens, heads, size]."""
    size = x.shape[-1]
    x = x.view(len(block.rows), x.shape[0] // len(block.rows), -1, block.length, size)
    for own, row in zip(x, block.rows, strict=True):
        n = row.stop - row.start
        out[row].view(n, x.shape[1], -1, size).permute(1, 2, 0, 3).copy_(own[:, :, :n])


def _parts(queries: Tensor, mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some heads at a time, and the mask of all queries that share a key."""
    tall = mask.repeat(queries.shape[1] // len(mask), 1)
    step = max(1, SCORES // tall.numel())
    for i in range(0, len(queries), step):
        yield slice(i, min(i + step, len(queries))), tall


def _probabilities(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale).softmax(-1)


class Gated(Function):
    """act(gate) * up for the gate and up halves of one tensor [tokens, 2 width] (Shazeer 2020)."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(both)
        ctx.activation = activation
        gate, up = both.chunk(2, -1)
        return _activate(gate, activation).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        out = torch.empty_like(both)
        grad_gate, grad_up = out.chunk(2, -1)
        torch.mul(grads[0], _activate(gate, ctx.activation), out=grad_up)
        inner = grads[0] * up
        if ctx.activation == "silu":
            grad_gate.copy_(torch.ops.aten.silu_backward(inner, gate))
        else:
            grad_gate.copy_(torch.ops.aten.gelu_backward(inner, gate, approximate="tanh"))
        return out, None


def _activate(x: Tensor, activation: str) -> Tensor:
    return F.silu(x) if activation == "silu" else F.gelu(x, approximate="tanh")
