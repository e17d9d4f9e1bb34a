"""The five functions a decoder is made of, each with its own backward pass.

Why not autograd's: on a CPU it computes in many small passes over memory what these do in few.
Measured on 2 cores, bf16, 8 rows of 138 tokens, one layer of SmolLM2-135M, forward and backward:
attention 38 ms with torch's fused kernel, 5 ms here; whole steps are in docs/speed.md.
All weights of the base are frozen: no function computes a gradient for them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

HEAD_ROWS = 128
"""Positions whose logits exist at one time: 128 x 49,152 x 4 bytes = 25 MB."""

SCORES = 2**21
"""Attention scores that exist at one time, so that they stay in the processor's cache."""


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


class Rotate(Function):
    """Rotary positions (Su et al. 2021), halves rotated against each other, written head by head.

    x [rows, length, heads, size] -> [rows, heads, length, size]; cos, sin [length, size/2] or, in
    generation, [rows, 1, length, size/2]. The backward pass turns the other way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        x = x.transpose(1, 2)
        return turn(x, cos, sin, x.new_empty(x.shape))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        grad = grads[0]
        rows, heads, length, size = grad.shape
        out = grad.new_empty(rows, length, heads, size).transpose(1, 2)
        return turn(grad, cos, -sin, out).transpose(1, 2), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """Rotate the halves of x's last axis into ``out``."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


class Attention(Function):
    """Causal attention with grouped queries: softmax(scale q k^T + mask) v.

    q [rows, heads, length, size], k and v [rows, groups, length, size], mask [length, length] of
    0 and -inf. Only q, k, v are kept; the probabilities are computed again in the backward pass,
    a few heads at a time, so that memory grows with the length and not with its square.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.scale = scale
        queries, keys, values, tall = _grouped(q, k, v, mask)
        out = torch.empty_like(queries)
        for part in _parts(queries.shape[0], tall.numel()):
            p = _probabilities(queries[part], keys[part], tall, scale)
            torch.bmm(p, values[part], out=out[part])
        return out.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        queries, keys, values, tall = _grouped(q, k, v, mask)
        grad = grads[0].reshape(queries.shape)
        grad_q, grad_k, grad_v = (torch.empty_like(t) for t in (queries, keys, values))
        for part in _parts(queries.shape[0], tall.numel()):
            p = _probabilities(queries[part], keys[part], tall, ctx.scale)
            torch.bmm(p.transpose(1, 2), grad[part], out=grad_v[part])
            grad_p = torch.bmm(grad[part], values[part].transpose(1, 2))
            grad_s = torch.ops.aten._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(ctx.scale)
            torch.bmm(grad_s, keys[part], out=grad_q[part])
            torch.bmm(grad_s.transpose(1, 2), queries[part], out=grad_k[part])
        return grad_q.view(q.shape), grad_k.view(k.shape), grad_v.view(v.shape), None, None


def _grouped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stack the query heads that share a key: no key is ever copied."""
    rows, groups, length, size = k.shape
    share = q.shape[1] // groups
    flat = (rows * groups, length, size)
    return q.reshape(rows * groups, share * length, size), k.reshape(flat), v.reshape(flat), mask.repeat(share, 1)


def _parts(count: int, scores_each: int) -> list[slice]:
    step = max(1, SCORES // scores_each)
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


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


class HeadLoss(Function):
    """Negative log-likelihood (float32 [n], nats) of targets [n] at positions [n] of hidden [tokens, width].

    The head [vocabulary, width] is applied only where something is learned, `HEAD_ROWS` positions
    at a time; the gradient is taken in the same pass, so no logits are kept. Backward expects the
    same factor for every position (a mean or a sum), which is what a loss has.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, positions: Tensor, targets: Tensor, head: Tensor) -> Tensor:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        grads = hidden.new_empty(len(targets), hidden.shape[1]) if wanted else None
        for start in range(0, len(targets), HEAD_ROWS):
            part = slice(start, start + HEAD_ROWS)
            logp = torch.log_softmax(hidden[positions[part]] @ head.t(), -1, dtype=torch.float32)
            target = targets[part, None]
            losses[part] = -logp.gather(1, target)[:, 0]
            if grads is not None:
                p = logp.exp_()
                p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))
                grads[part] = p.to(head.dtype) @ head
        ctx.save_for_backward(positions, grads)
        ctx.shape = hidden.shape
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        positions, inner = ctx.saved_tensors
        out = inner.new_zeros(ctx.shape)
        out[positions] = inner * grads[0][0].item()  # not in bf16: that would round the loss's own factor
        return out, None, None, None
