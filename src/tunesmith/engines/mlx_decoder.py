"""The base model on MLX: mlx-lm's layers, the weights of a folder, one low-rank update per chosen weight.

mlx-lm gives the layers; the walk through them is here, because windows, rotary positions and Gemma's
embedding scale come from our `Architecture` (mlx-lm reads some of them from ``config.json`` by older
names, and gives Mistral no window). No code of the model folder is run and its config is not read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.rope_utils import initialize_rope

from tunesmith.engines import adapter
from tunesmith.engines.base import LoraShape
from tunesmith.engines.needs import HEAD_BYTES
from tunesmith.errors import EngineError, ModelError
from tunesmith.models.architecture import Architecture, Rope
from tunesmith.models.safetensors_file import InSafetensors
from tunesmith.models.stored import Stored
from tunesmith.models.weights import tensor_index

CLASSES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}


@dataclass(eq=False)
class Adapter:
    """The arrays of all low-rank updates, which the layers look up as they run.

    Layers hold no arrays of their own, so that a gradient is one function of ``arrays``.
    """

    shape: LoraShape
    arrays: dict[str, mx.array]
    on: bool = True
    dropout_keys: mx.array | None = None
    """One key per module while a step with dropout runs, else None."""
    modules: list[tuple[int, str]] = field(default_factory=list)
    """(layer, module) of each update."""

    def draw(self, key: mx.array) -> None:
        """Drop inputs from now on, as ``key`` says."""
        if self.shape.dropout:
            self.dropout_keys = mx.random.split(key, len(self.modules))

    def drop(self, index: int, x: mx.array) -> mx.array:
        """``x`` with elements dropped (and the others scaled up) while training."""
        if self.dropout_keys is None:
            return x
        keep = 1.0 - self.shape.dropout
        return x * mx.random.bernoulli(keep, x.shape, key=self.dropout_keys[index]) * (1.0 / keep)


class LoraLinear(nn.Module):
    """y = W x + scale B A x, with W frozen; A [rank, in] and B [out, rank] as in PEFT."""

    def __init__(self, linear: nn.Linear, lora: Adapter, index: int):
        super().__init__()
        self.linear = linear
        self.lora = lora
        self.index = index
        self.a, self.b = (adapter.key(*lora.modules[index], part) for part in "AB")

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        if not self.lora.on:
            return y
        a, b = (self.lora.arrays[name].astype(x.dtype) for name in (self.a, self.b))
        return y + self.lora.shape.scale * ((self.lora.drop(self.index, x) @ a.T) @ b.T)


class Decoder:
    """A dense, llama-like decoder whose weights are frozen, with at most one adapter on it.

    Layers below ``above`` are not kept: each is read when it is needed, and let go by `forget`.
    """

    def __init__(self, folder: Path, arch: Architecture, dtype: mx.Dtype, above: int = 0):
        """Read the weights of ``folder`` as ``dtype``. Raises `ModelError` when tensors and
        architecture do not fit, `EngineError` when mlx-lm has no layer of that kind."""
        self.arch, self.dtype, self._above = arch, dtype, above
        self.lora: Adapter | None = None
        self._model: Any = build(arch)
        self._empty = {i: self._model.model.layers[i].parameters() for i in range(above)}  # not computed, ever
        self._index = _index(self._model, folder)
        below = tuple(f"model.layers.{i}." for i in range(above))
        _load(self._model, self._index, dtype, [name for name in self._index if not name.startswith(below)])
        self._unread = set(range(above))

    def layer(self, i: int) -> Any:
        """One layer with its weights: kept, or read now."""
        if i in self._unread:
            at = f"model.layers.{i}."
            _load(self._model, self._index, self.dtype, [name for name in self._index if name.startswith(at)])
            self._unread.remove(i)
        return self._model.model.layers[i]

    def forget(self, i: int) -> None:
        """Let go of a layer's weights, unless it is kept."""
        if i < self._above:
            self._model.model.layers[i].update(self._empty[i])
            self._unread.add(i)

    def put(self, shape: LoraShape, arrays: dict[str, mx.array]) -> Adapter:
        """Put an adapter on, in place of the one before."""
        for layer, module in self.lora.modules if self.lora else ():
            place = self._place(layer, module)
            setattr(place, module, getattr(place, module).linear)
        modules = [(i, name) for i in adapter.trained_layers(self.arch, shape) for name in shape.modules]
        self.lora = Adapter(shape, arrays, modules=modules)
        for index, (layer, module) in enumerate(modules):
            place = self._place(layer, module)
            setattr(place, module, LoraLinear(getattr(place, module), self.lora, index))
        return self.lora

    def _place(self, layer: int, module: str) -> nn.Module:
        return getattr(self._model.model.layers[layer], adapter.PLACE[module])

    @contextmanager
    def adapted(self, on: bool) -> Iterator[None]:
        """With the adapter, or as the base, for a while."""
        if self.lora is None:
            yield
            return
        before, self.lora.on = self.lora.on, on
        try:
            yield
        finally:
            self.lora.on = before

    def embed(self, ids: mx.array) -> mx.array:
        """States [rows, length, width] before the first layer."""
        x = self._model.model.embed_tokens(ids)
        return x if self.arch.embedding_scale == 1.0 else x * mx.array(self.arch.embedding_scale, x.dtype)

    def advance(self, x: mx.array, i: int) -> mx.array:
        """States behind layer ``i``, of those before it."""
        return self.layer(i)(x, _mask(x.shape[1], self.arch.windows[i], None), None)

    def hidden(
        self,
        ids: mx.array,
        caches: Sequence[Any] | None = None,
        *,
        places: mx.array | None = None,
        recompute: bool = False,
        states: mx.array | None = None,
        start: int = 0,
        at: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """Token ids [rows, length] -> normed states [rows, length, width], or [n, width] ``at`` n (rows, places).

        Rows are padded on the right. With caches ids follow what the caches hold, at the ``places`` [rows or 1,
        length] of each row. ``recompute`` keeps only what enters each
        layer for the way back, and runs the layer again there. Layers below ``start`` are left out when
        the ``states`` [rows, length, width] that enter it are known.
        """
        body = self._model.model
        x = self.embed(ids) if states is None else states
        masks = {w: _mask(ids.shape[1], w, places) for w in set(self.arch.windows)}
        for i in range(start, self.arch.layers):
            layer, mask = self.layer(i), masks[self.arch.windows[i]]
            if at is not None and i == self.arch.layers - 1:
                run = partial(_last, layer, mask, at, self.arch.sandwich_norms)
            else:
                run = partial(layer, mask=mask, cache=caches[i] if caches else None)
            x = _recomputed(run, i, self.lora, x) if recompute and self.lora else run(x)
            if i < self._above:  # the next one takes its place in memory
                mx.eval(x)
                self.forget(i)
        return body.norm(x)

    def head(self, hidden: mx.array) -> mx.array:
        """States [..., width] -> float32 logits [..., vocabulary]."""
        tied = self.arch.tied
        logits = self._model.model.embed_tokens.as_linear(hidden) if tied else self._model.lm_head(hidden)
        return logits.astype(mx.float32)

    def token_losses(self, hidden: mx.array, targets: mx.array) -> mx.array:
        """Negative log-likelihood, float32 [n], of targets [n] under states [n, width].

        The head runs in pieces of `HEAD_BYTES`, and again on the way back instead of being kept.
        """
        rows = max(1, HEAD_BYTES // (4 * self.arch.vocabulary))
        starts = range(0, len(targets), rows)
        return mx.concatenate([self._piece(hidden[i : i + rows], targets[i : i + rows]) for i in starts])

    def _piece(self, hidden: mx.array, targets: mx.array) -> mx.array:
        def losses(hidden: mx.array) -> mx.array:
            logits = self.head(hidden)
            return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]

        return mx.checkpoint(losses)(hidden)


def _last(layer: Any, mask: mx.array | str, at: tuple[mx.array, mx.array], sandwich: bool, x: mx.array) -> mx.array:
    """The last layer, whose states nobody looks at but ``at`` some places: its MLP is spared the others. As mlx-lm's
    layers compute it, in the types that we have."""
    attended = layer.self_attn(layer.input_layernorm(x), mask, None)[at]
    if not sandwich:
        x = x[at] + attended
        return x + layer.mlp(layer.post_attention_layernorm(x))
    x = x[at] + layer.post_attention_layernorm(attended)
    return x + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x)))


def _recomputed(layer: Callable[[mx.array], mx.array], index: int, lora: Adapter, x: mx.array) -> mx.array:
    """One layer as a function of its own adapter arrays and ``x``: what `mx.checkpoint` can differentiate."""
    mine = f"{adapter.PREFIX}{index}."

    def run(arrays: dict[str, mx.array], x: mx.array) -> mx.array:
        before, lora.arrays = lora.arrays, arrays
        try:
            return layer(x)
        finally:
            lora.arrays = before

    return mx.checkpoint(run)({name: a for name, a in lora.arrays.items() if name.startswith(mine)}, x)


def build(arch: Architecture) -> nn.Module:
    """mlx-lm's model of one family with random weights, made to follow ``arch``."""
    _refuse(arch)
    module = importlib.import_module(f"mlx_lm.models.{CLASSES[arch.family]}")
    model: Any = module.Model(module.ModelArgs.from_dict(_arguments(arch)))
    if arch.tied:
        model.pop("lm_head", None)  # mlx-lm's Gemma makes one and drops it when it sees the weights
    for i, layer in enumerate(model.model.layers):
        attention, rope = layer.self_attn, arch.rope_of(i)
        attention.scale = arch.query_scale or arch.head_dim**-0.5
        attention.rope = initialize_rope(arch.head_dim, rope.theta, False, _scaling(rope), arch.context)
    return model


def _refuse(arch: Architecture) -> None:
    """mlx-lm's classes cannot say these; a wrong model must not be trained in silence."""
    biases = {"qwen2": (True, False)}.get(arch.family, (arch.o_bias, arch.o_bias))
    fits = (arch.qkv_bias, arch.o_bias) == biases and not (arch.o_bias and arch.family == "qwen3")
    if not fits or (arch.family == "qwen2" and arch.heads * arch.head_dim != arch.width):
        raise EngineError(
            f"the MLX engine has no {arch.family} layers with these biases or head widths; "
            "choose the torch engine for this model"
        )


def _arguments(arch: Architecture) -> dict[str, Any]:
    """What mlx-lm's ``ModelArgs`` are made of; each family takes the names it knows."""
    return {
        "model_type": CLASSES[arch.family],
        "hidden_size": arch.width,
        "num_hidden_layers": arch.layers,
        "intermediate_size": arch.mlp_width,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "rms_norm_eps": arch.norm_eps,
        "vocab_size": arch.vocabulary,
        "max_position_embeddings": arch.context,
        "attention_bias": arch.qkv_bias,
        "mlp_bias": arch.mlp_bias,
        "rope_theta": arch.rope.theta,
        "tie_word_embeddings": arch.tied,
    }


def _scaling(rope: Rope) -> dict[str, Any]:
    return {
        "rope_type": rope.kind,
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_length,
    }


def _index(model: nn.Module, folder: Path) -> dict[str, Stored]:
    """The tensors of ``folder`` that ``model`` has, each of the shape that it has there."""
    index = tensor_index(folder)
    wanted: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    if missing := sorted(wanted.keys() - index.keys()):
        raise ModelError(f"{folder} lacks the tensor {missing[0]} ({len(missing)} in all); download it again")
    if strange := sorted(index.keys() - wanted.keys() - {"lm_head.weight"}):  # some tied models keep a copy
        raise ModelError(f"{folder} has the tensor {strange[0]}, which its config.json does not account for")
    for name, array in wanted.items():
        if array.shape != index[name].shape:
            raise ModelError(f"{folder}: {name} is {index[name].shape}, config.json says {array.shape}")
    return {name: index[name] for name in wanted}


def _load(model: nn.Module, index: Mapping[str, Stored], dtype: mx.Dtype, names: Sequence[str]) -> None:
    """Fill the parameters ``names`` of ``model``, each read exactly once."""
    shards = {s.path for s in (index[name] for name in names) if isinstance(s, InSafetensors)}
    files: dict[Path, Any] = {path: mx.load(str(path)) for path in shards}  # which reads nothing yet
    arrays: dict[str, mx.array] = {}
    for name in names:
        stored = index[name]
        in_shard = stored.path in shards
        arrays[name] = files[stored.path][stored.name].astype(dtype) if in_shard else _computed(stored, dtype)
    model.load_weights(list(arrays.items()), strict=False)
    model.freeze()
    mx.eval(arrays)


def _computed(stored: Stored, dtype: mx.Dtype) -> mx.array:
    """A tensor that no file holds as it is, computed a chunk at a time."""
    parts: list[mx.array] = []
    for chunk in stored.chunks():
        part = mx.array(chunk)
        parts.append((part.view(mx.bfloat16) if stored.dtype == "BF16" else part).astype(dtype))
        mx.eval(parts)
    whole = mx.concatenate(parts)
    mx.eval(whole)
    return whole


def _mask(length: int, window: int | None, places: mx.array | None) -> mx.array | str:
    """Who sees whom: causal, not farther back than the window; at ``places`` [rows or 1, length] behind a cache."""
    if places is None:
        return "causal" if window is None or window >= length else create_causal_mask(length, window_size=window)
    columns, at = mx.arange(int(places.max()) + 1), places[..., None]
    seen = columns <= at
    return (seen if window is None else seen & (columns > at - window))[:, None]
