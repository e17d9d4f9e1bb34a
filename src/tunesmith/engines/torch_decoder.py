"""A dense, llama-like decoder on frozen weights, written out: load, forward, forward with a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.engines.adapter import GROUPS
from tunesmith.engines.needs import HEAD_ROWS
from tunesmith.engines.torch_functions import Attention, Gated, LoraLinear, Places, RmsNorm, linear, turn
from tunesmith.engines.torch_head import slice_of
from tunesmith.engines.torch_pack import Packed
from tunesmith.models.architecture import Architecture, Rope
from tunesmith.models.weights import tensor_index


@dataclass
class Linear:
    """Frozen weight [out, in] of one group, and its bias."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass
class Update:
    """The low-rank update of one group: a [rank, in], b [out, rank] in the compute type."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: float = 0.0
    generator: torch.Generator | None = None


Updates = dict[tuple[int, str], Update]
"""By layer and group; layers and groups without an update are the base."""


@dataclass
class Layer:
    linear: dict[str, Linear]
    norm: dict[str, Tensor]


COLUMNS = 64
"""A cache grows by so many at once."""


@dataclass
class Cache:
    """Keys and values of what was read so far, one [rows, groups, room, size] a layer."""

    keys: list[Tensor]
    values: list[Tensor]

    def reserve(self, rows: int, room: int) -> None:
        """Make it hold so many rows of so many tokens, and keep what is in it."""
        had, _, long, _ = self.keys[0].shape
        if rows <= had and room <= long:
            return
        if rows > had > 0:  # texts that come one by one would copy all others each time
            rows = max(rows, 2 * had)
        rows, room = max(rows, had), max(-(-room // COLUMNS) * COLUMNS, long)
        for wholes in (self.keys, self.values):
            for i, whole in enumerate(wholes):
                wholes[i] = whole.new_zeros(rows, whole.shape[1], room, whole.shape[3])
                wholes[i][:had, :, :long] = whole

    def put(self, i: int, rows: slice, starts: Sequence[int], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in k and v [rows, groups, n, size] of layer ``i``, and give all of these rows up to the last column that
        was written. They begin at one column, or each row at its own."""
        keys, values, end = self.keys[i], self.values[i], max(starts) + k.shape[2]
        if len(starts) == 1:
            keys[rows, :, starts[0] : end], values[rows, :, starts[0] : end] = k, v
        else:
            at = torch.arange(rows.start, rows.stop, device=k.device)[:, None]
            columns = torch.tensor(starts, device=k.device)[:, None] + torch.arange(k.shape[2], device=k.device)
            keys[at, :, columns], values[at, :, columns] = k.transpose(1, 2), v.transpose(1, 2)
        return keys[rows, :, :end], values[rows, :, :end]

    def copy(self, source: int, targets: slice, length: int) -> None:
        """Give these rows what another one begins with."""
        for whole in (*self.keys, *self.values):
            whole[targets, :, :length] = whole[source, :, :length]


class Decoder:
    """Base weights on one device in one type, and how they are applied.

    Layers below ``above`` are not kept: each is read when it is needed, and let go.
    """

    def __init__(
        self, folder: Path, arch: Architecture, dtype: torch.dtype, device: torch.device, above: int = 0
    ) -> None:
        self.arch, self.dtype, self.device = arch, dtype, device
        self._read = reader = _Reader(folder, dtype, device)
        self.embedding = reader("model.embed_tokens.weight")
        self._kept = {i: self._layer(reader, i) for i in range(above, arch.layers)}
        self.norm = self._norm(reader, "model.norm.weight")
        self.head = self.embedding if arch.tied else reader("lm_head.weight")
        self._tables: dict[tuple[Rope, int], tuple[Tensor, Tensor]] = {}
        self._masks: dict[int | None, Tensor] = {}

    def _layer(self, read: _Reader, i: int) -> Layer:
        at, arch = f"model.layers.{i}.", self.arch
        places = {"qkv": "self_attn", "o": "self_attn", "gate_up": "mlp", "down": "mlp"}
        biased = {"qkv": arch.qkv_bias, "o": arch.o_bias, "gate_up": arch.mlp_bias, "down": arch.mlp_bias}
        weights = {}
        for group, names in GROUPS.items():
            stems = [f"{at}{places[group]}.{name}" for name in names]
            bias = read(*(s + ".bias" for s in stems)) if biased[group] else None
            weights[group] = Linear(read(*(s + ".weight" for s in stems)), bias)
        norm = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
        if arch.sandwich_norms:
            norm |= {"after_attention": "post_attention_layernorm", "mlp": "pre_feedforward_layernorm",
                     "after_mlp": "post_feedforward_layernorm"}  # fmt: skip
        if arch.qk_norm:
            norm |= {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}
        return Layer(weights, {key: self._norm(read, f"{at}{name}.weight") for key, name in norm.items()})

    def _norm(self, read: _Reader, name: str) -> Tensor:
        return (read(name).float() + self.arch.norm_offset).to(self.dtype)

    def layer(self, i: int) -> Layer:
        """The weights of one layer: kept, or read now."""
        kept = self._kept.get(i)
        return self._layer(self._read, i) if kept is None else kept

    # -- forward ---------------------------------------------------------------------------------

    def hidden(self, packed: Packed, updates: Updates, start: int = 0, at: Tensor | None = None) -> Tensor:
        """Last hidden states [tokens, width], the final norm applied; from layer ``start`` on when the states that
        enter it are known. Only those ``at`` some positions, where that is all that is asked for."""
        x = self.embed(packed.ids) if packed.states is None else packed.states
        last = self.arch.layers - 1
        for i in range(0 if packed.states is None else start, last):
            x = self.advance(x, packed, i, self.layer(i), updates)
        x = self.advance(x, packed, last, self.layer(last), updates, at)
        return RmsNorm.apply(x, self.norm, self.arch.norm_eps)

    def advance(
        self, x: Tensor, packed: Packed, i: int, layer: Layer, updates: Updates, at: Tensor | None = None
    ) -> Tensor:
        """States [tokens, width] behind layer ``i``, of those before it; behind the last layer nobody looks at the
        others than those ``at`` which something is predicted, so its MLP is spared them."""
        window, longest = self.arch.windows[i], packed.blocks[0].length
        where = [Places(block, self._mask(block.length, window)) for block in packed.blocks]
        turns = [table[packed.positions][:, None] for table in self._rotation(self.arch.rope_of(i), longest)]
        qkv = self._queries(x, i, layer, updates)
        attended = Attention.apply(qkv, self.arch.kv_heads, where, (turns[0], turns[1]), self.arch.query_scale)
        if at is not None:
            x, attended = x.index_select(0, at), attended.index_select(0, at)
        return self._rest(x, attended, i, layer, updates)

    def read(self, ids: Tensor, cache: Cache, rows: slice, starts: Sequence[int], updates: Updates) -> Tensor:
        """States [rows, n, width] behind ids [rows, n], which these rows of the cache take in: from one column on, or
        each row at its own."""
        (count, n), end, groups = ids.shape, max(starts) + ids.shape[1], self.arch.kv_heads
        at = torch.tensor(starts, device=self.device)[:, None] + torch.arange(n, device=self.device)
        # The same for all layers of a kind: computed once, or it would be most of a step's operations.
        kinds = {(self.arch.rope_of(i), self.arch.windows[i]) for i in range(self.arch.layers)}
        turns = {rope: [t[at][:, None] for t in self._rotation(rope, end)] for rope, _ in kinds}
        columns = torch.arange(end, device=self.device)
        masks = {window: _bias(_seen(at, columns, window), self.dtype)[:, None] for _, window in kinds}
        x = self.embed(ids)
        for i in range(self.arch.layers):
            cos, sin = turns[self.arch.rope_of(i)]
            layer = self.layer(i)
            qkv = self._queries(x, i, layer, updates).view(count, n, -1, self.arch.head_dim).transpose(1, 2)
            q, k = turn(qkv[:, :-groups], cos, sin, qkv.new_empty(qkv[:, :-groups].shape)).split(
                [self.arch.heads, groups], 1
            )
            keys, values = cache.put(i, rows, starts, k, qkv[:, -groups:])
            o = F.scaled_dot_product_attention(
                q, keys, values, attn_mask=masks[self.arch.windows[i]], scale=self.arch.query_scale, enable_gqa=True
            )
            x = self._rest(x, o.transpose(1, 2).reshape(count * n, -1), i, layer, updates)
        return x.view(count, n, -1)

    def logits(self, states: Tensor) -> Tensor:
        """float32 [n, vocabulary] of what the last layer left, [n, width]."""
        return linear(RmsNorm.apply(states, self.norm, self.arch.norm_eps), self.head, None).float()

    def token_losses(self, states: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood, float32 [n], of targets [n] under what the last layer left, [n, width]."""
        hidden = RmsNorm.apply(states, self.norm, self.arch.norm_eps)
        parts = zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
        slices = [slice_of(some, wished, self.head, 0, wanted=False) for some, wished in parts]
        return torch.cat([one.whole - one.target for one in slices])

    def new_cache(self) -> Cache:
        """An empty one, which holds nothing before something is reserved."""

        def empty() -> list[Tensor]:
            shape = (0, self.arch.kv_heads, 0, self.arch.head_dim)
            return [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(self.arch.layers)]

        return Cache(empty(), empty())

    # -- parts of a layer ------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """States [rows * length, width] before the first layer."""
        x = F.embedding(ids.reshape(-1), self.embedding)
        return x * torch.tensor(self.arch.embedding_scale, dtype=self.dtype) if self.arch.embedding_scale != 1 else x

    def _queries(self, x: Tensor, i: int, layer: Layer, updates: Updates) -> Tensor:
        """Queries, keys and values of x [tokens, width] one behind the other, not yet turned:
        [tokens, heads + 2 groups, size]."""
        arch = self.arch
        normed = RmsNorm.apply(x, layer.norm["attention"], arch.norm_eps)
        qkv = self._linear(normed, i, "qkv", layer, updates).view(len(x), -1, arch.head_dim)
        if not arch.qk_norm:
            return qkv
        q, k, v = qkv.split([arch.heads, arch.kv_heads, arch.kv_heads], -2)
        norms = [RmsNorm.apply(q, layer.norm["q"], arch.norm_eps), RmsNorm.apply(k, layer.norm["k"], arch.norm_eps)]
        return torch.cat([*norms, v], -2)

    def _rest(self, x: Tensor, attended: Tensor, i: int, layer: Layer, updates: Updates) -> Tensor:
        """Everything after attention: its projection, the MLP, both residuals."""
        eps = self.arch.norm_eps
        o = self._linear(attended, i, "o", layer, updates)
        if self.arch.sandwich_norms:
            o = RmsNorm.apply(o, layer.norm["after_attention"], eps)
        x = x + o
        both = self._linear(RmsNorm.apply(x, layer.norm["mlp"], eps), i, "gate_up", layer, updates)
        y = self._linear(Gated.apply(both, self.arch.activation), i, "down", layer, updates)
        if self.arch.sandwich_norms:
            y = RmsNorm.apply(y, layer.norm["after_mlp"], eps)
        return x + y

    def _linear(self, x: Tensor, i: int, group: str, layer: Layer, updates: Updates) -> Tensor:
        own, update = layer.linear[group], updates.get((i, group))
        if update is None:
            return linear(x, own.weight, own.bias)
        keep = None
        if update.dropout and update.generator is not None:
            keep = torch.empty_like(x).bernoulli_(1 - update.dropout, generator=update.generator)
            keep.div_(1 - update.dropout)
        return LoraLinear.apply(x, own.weight, own.bias, update.a, update.b, update.scale, keep)

    # -- tables ----------------------------------------------------------------------------------

    def _rotation(self, rope: Rope, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, head_dim/2] in the compute type; computed in steps of 256 positions."""
        room = -(-length // 256) * 256
        table = self._tables.get((rope, room))
        if table is None:  # threads may both make one; they are the same
            angles = torch.outer(torch.arange(room, dtype=torch.float32), frequencies(rope, self.arch.head_dim))
            table = angles.cos().to(self.device, self.dtype), angles.sin().to(self.device, self.dtype)
            self._tables[rope, room] = table
        return table[0][:length], table[1][:length]

    def _mask(self, length: int, window: int | None) -> Tensor:
        mask = self._masks.get(window)
        if mask is None or len(mask) < length:  # one for each kind of layer, as long as ever needed
            at = torch.arange(-(-length // 256) * 256, device=self.device)
            mask = self._masks[window] = _bias(_seen(at, at, window), self.dtype)
        return mask[:length, :length]


def _seen(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """bool [..., queries, keys] of positions [..., queries] and [keys]."""
    seen = keys <= queries[..., None]
    return seen if window is None else seen & (keys > queries[..., None] - window)


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def frequencies(rope: Rope, size: int) -> Tensor:
    """Radians per position [size/2]. ``llama3`` stretches the slow ones, as in Meta's reference code."""
    inverse = 1.0 / rope.theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    if rope.kind == "linear":
        return inverse / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_length * inverse / (2 * math.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = smooth.clamp(0, 1)
        return (1 - smooth) * inverse / rope.factor + smooth * inverse
    return inverse


class _Reader:
    """Reads tensors in the compute type, several as one: beside the result, only a chunk is in memory."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.index, self.dtype, self.device = tensor_index(folder), dtype, device

    def __call__(self, *names: str) -> Tensor:
        """The tensors ``names``, one below the other."""
        parts = [self.index[name] for name in names]
        shape, at, whole = (sum(part.shape[0] for part in parts), *parts[0].shape[1:]), 0, None
        for part in parts:
            for chunk in part.chunks():
                rows = torch.from_numpy(chunk)
                rows = rows.view(torch.bfloat16) if part.dtype == "BF16" else rows
                if rows.shape == shape:  # mapped from disk: not copied where the type is the same
                    return rows.to(self.device, self.dtype)
                if whole is None:
                    whole = torch.empty(shape, dtype=self.dtype, device=self.device)
                whole[at : at + len(rows)] = rows
                at += len(rows)
        assert whole is not None
        return whole
