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


class LoraLinear(Function):
    """y = x W^T + b + scale (drop(x) A^T) B^T.

    x [tokens, in], weight [out, in], bias [out] or None, a [rank, in], b [out, rank],
    keep None or the dropout mask [tokens, in], already divided by 1 - p.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor,
                scale: float, keep: Tensor | None) -> Tensor:  # fmt: skip
        low = (x if keep is None else x * keep) @ a.t()
        y = F.linear(x, weight, bias)
        y.addmm_(low, b.t(), alpha=scale)
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
    """How a block of rows is attended: mask [length, length] of 0 and -inf, cos and sin [length, size/2]."""

    block: Block
    mask: Tensor
    cos: Tensor
    sin: Tensor


class Attention(Function):
    """Causal attention inside each row, with rotary positions and grouped queries: softmax(scale q k^T + mask) v.

    q [tokens, heads, size], k and v [tokens, groups, size] -> [tokens, heads * size]. Only q, k, v are kept; the
    probabilities are computed again in the backward pass, a few heads at a time, so that memory grows with the
    length and not with its square.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: list[Places], scale: float) -> Tensor:
        groups, out, kept = k.shape[1], torch.zeros_like(q), []
        for places in where:
            laid = [_laid_out(x, places, groups, turned=x is not v) for x in (q, k, v)]
            found = torch.empty_like(laid[0])
            for part, tall in _parts(laid[0], places.mask):
                p = _probabilities(laid[0][part], laid[1][part], tall, scale)
                torch.bmm(p, laid[2][part], out=found[part])
            _put_back(found, places, out)
            kept += laid
        ctx.save_for_backward(*kept)
        ctx.where, ctx.scale, ctx.shapes = where, scale, (q.shape, k.shape)
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        heads, groups = ctx.shapes
        grad_q, grad_k, grad_v = (grads[0].new_zeros(shape) for shape in (heads, groups, groups))
        for i, places in enumerate(ctx.where):
            q, k, v = ctx.saved_tensors[3 * i : 3 * i + 3]
            grad = _laid_out(grads[0].view(heads), places, groups[1], turned=False)
            laid_q, laid_k, laid_v = (torch.empty_like(x) for x in (q, k, v))
            for part, tall in _parts(q, places.mask):
                p = _probabilities(q[part], k[part], tall, ctx.scale)
                torch.bmm(p.transpose(1, 2), grad[part], out=laid_v[part])
                grad_p = torch.bmm(grad[part], v[part].transpose(1, 2))
                grad_s = torch.ops.aten._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(ctx.scale)
                torch.bmm(grad_s, k[part], out=laid_q[part])
                torch.bmm(grad_s.transpose(1, 2), q[part], out=laid_k[part])
            _put_back(laid_q, places, grad_q, turned=True)
            _put_back(laid_k, places, grad_k, turned=True)
            _put_back(laid_v, places, grad_v)
        return grad_q, grad_k, grad_v, None, None


def _laid_out(x: Tensor, places: Places, groups: int, *, turned: bool) -> Tensor:
    """x [tokens, heads, size] as [rows * groups, heads / groups * length, size], zero where a row has ended: the query
    heads that share a key lie behind each other, so that no key is ever copied."""
    block, size = places.block, x.shape[-1]
    out = x.new_zeros(len(block.rows), groups, x.shape[1] // groups, block.length, size)
    for to, row in zip(out, block.rows, strict=True):
        n = row.stop - row.start
        own = x[row].view(n, groups, -1, size).permute(1, 2, 0, 3)
        if turned:
            turn(own, places.cos[:n], places.sin[:n], to[:, :, :n])
        else:
            to[:, :, :n] = own
    return out.view(len(block.rows) * groups, -1, size)


def _put_back(x: Tensor, places: Places, out: Tensor, *, turned: bool = False) -> None:
    """The way back of `_laid_out`, into ``out`` [tokens, heads, size]."""
    block, size = places.block, x.shape[-1]
    x = x.view(len(block.rows), x.shape[0] // len(block.rows), -1, block.length, size)
    for own, row in zip(x, block.rows, strict=True):
        n = row.stop - row.start
        to = out[row].view(n, x.shape[1], -1, size).permute(1, 2, 0, 3)
        if turned:
            turn(own[:, :, :n], places.cos[:n], -places.sin[:n], to)
        else:
            to.copy_(own[:, :, :n])


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
