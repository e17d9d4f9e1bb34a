"""The engine for Apple silicon: training steps, losses and generation on MLX."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np

from tunesmith.engines.adapter import check_layout, fresh, trained_layers
from tunesmith.engines.base import (
    Batch,
    Job,
    LoraShape,
    Precision,
    Result,
    StepResult,
    StepSettings,
    iterate_by_padding,
    iterate_by_tokens,
    peak_memory,
)
from tunesmith.engines.mlx_decoder import Adapter, Decoder
from tunesmith.engines.mlx_slots import MlxSlots
from tunesmith.engines.needs import kept_by_mlx, recomputes
from tunesmith.engines.ranks import ALONE, Ranks, total
from tunesmith.engines.writing import Generation, Picker, write
from tunesmith.errors import EngineError, OutOfMemory, TrainingError
from tunesmith.models.architecture import Architecture

BETAS, EPSILON = (0.9, 0.999), 1e-8
CLIP_EPSILON = 1e-6
"""torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6."""
PREFIX_TOKENS = 2048
"""Tokens that go through a layer at once when nothing is kept for the way back."""

SPARED = 256
"""Tokens of padding that are worth a pass of their own."""

Arrays = dict[str, mx.array]


class MlxEngine:
    """`engines.base.Engine` on mlx-lm's layers.

    dtype: what the base computes in, "bf16", "fp32", or "auto" (bf16 on Apple silicon, else fp32).
    above: layers below it are read when they are needed instead of being kept in memory.
    Adapter, moments, logits and losses are float32 always.
    """

    name = "mlx"
    lanes = 1

    def __init__(
        self, folder: Path, arch: Architecture, dtype: str = "auto", above: int = 0, ranks: Ranks = ALONE
    ) -> None:
        self.arch, self.ranks = arch, ranks
        limit, _ = device_limits()
        if limit:
            mx.set_wired_limit(limit)
        with out_of_memory():
            self._decoder = Decoder(folder, arch, compute_dtype(dtype, platform.machine(), sys.platform), above)
        self.precision: Precision = settled(dtype)
        self._room = limit - mx.get_active_memory() if limit else None
        self._optimizer = AdamW()

    def add_adapter(self, shape: LoraShape, seed: int) -> None:
        arrays = fresh(self._decoder.arch, shape, seed)
        self._decoder.put(shape, {name: mx.array(array) for name, array in arrays.items()})
        self._optimizer = AdamW()

    def step(self, micro_batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """As `Engine.step`. When loss or gradient is not finite nothing is updated, so that what was
        learned before is still there to be saved."""
        lora = self._adapter()
        tokens = int(total(self.ranks, sum(batch.learned for batch in micro_batches)))
        if not tokens:
            raise TrainingError(f"step {settings.step} got no row with a token to learn; check the learn masks")
        with out_of_memory():
            loss, gradients = self._gradients(micro_batches, tokens, settings)
            norm = global_norm(gradients)
            if math.isfinite(loss) and math.isfinite(norm):
                if settings.clip is not None:
                    shrink = min(1.0, settings.clip / (norm + CLIP_EPSILON))
                    gradients = {name: g * shrink for name, g in gradients.items()}
                lora.arrays = self._optimizer.update(lora.arrays, gradients, settings)
        return StepResult(loss, norm, tokens)

    def _gradients(self, micro_batches: Sequence[Batch], tokens: int, settings: StepSettings) -> tuple[float, Arrays]:
        """Mean loss over all learned tokens and its gradient, one micro-batch in memory at a time."""
        lora = self._adapter()
        arrays, loss = lora.arrays, 0.0
        summed = {name: mx.zeros_like(array) for name, array in arrays.items()}
        parts = [batch.rows(rows) for batch in micro_batches for rows in iterate_by_padding(batch.lengths, SPARED)]
        try:
            for index, batch in enumerate(parts):
                if not batch.learned:
                    continue
                lora.draw(step_key(settings, self.ranks.rank, index))
                share, gradients = mx.value_and_grad(lambda a, b=batch: self._mean_loss(a, b, tokens))(arrays)
                summed = {name: summed[name] + gradients[name] for name in summed}
                mx.eval(share, summed)
                loss += number(share)
        finally:
            lora.arrays, lora.dropout_keys = arrays, None  # not the ones that were traced
        if self.ranks.size > 1:
            summed = dict(zip(summed, self.ranks.sum(list(summed.values())), strict=True))
        return total(self.ranks, loss), summed

    def _mean_loss(self, arrays: Arrays, batch: Batch, tokens: int) -> mx.array:
        self._adapter().arrays = arrays
        return self._learned_losses(batch, recompute=self._too_much_to_keep(batch)).sum() / tokens

    def _too_much_to_keep(self, batch: Batch) -> bool:
        """Whether layers should run twice (a third more work) because their insides do not fit."""
        arch, shape = self._decoder.arch, self._adapter().shape
        rows, length = batch.ids.shape
        need = kept_by_mlx(arch, len(trained_layers(arch, shape)), rows, length, self._decoder.dtype.size)
        return recomputes(need, self._room)

    def _learned_losses(self, batch: Batch, *, recompute: bool = False) -> mx.array:
        """Negative log-likelihood of the learned tokens, row by row: float32 [batch.learned]."""
        rows, before = np.nonzero(batch.learn[:, 1:])  # the state before a token predicts it
        states = None if batch.states is None else _states(batch.states, self._decoder.dtype)
        start = 0 if states is None else trained_layers(self._decoder.arch, self._adapter().shape).start
        at = mx.array(rows), mx.array(before)
        hidden = self._decoder.hidden(mx.array(batch.ids), recompute=recompute, states=states, start=start, at=at)
        return self._decoder.token_losses(hidden, mx.array(batch.ids[rows, before + 1]))

    def prefix(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        lowest = trained_layers(self._decoder.arch, self._adapter().shape).start
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        with out_of_memory():
            groups = list(iterate_by_tokens([len(row) for row in rows], PREFIX_TOKENS))
            ids = [Batch.of([(rows[i], np.zeros(len(rows[i]), bool)) for i in group]).ids for group in groups]
            states = [self._decoder.embed(mx.array(part)) for part in ids]
            for i in range(lowest):
                for at, x in enumerate(states):
                    states[at] = self._decoder.advance(x, i)
                    mx.eval(states[at])
                self._decoder.forget(i)
            for group, x in zip(groups, states, strict=True):
                bits = np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)
                for i, row in zip(group, bits, strict=True):
                    found[i] = row[: len(rows[i])].copy()
        return found

    def losses(self, batch: Batch, *, adapter: bool = True) -> tuple[np.ndarray, np.ndarray]:
        counts = batch.learn[:, 1:].sum(axis=1).astype(np.int64)
        if not counts.any():
            return np.zeros(len(counts)), counts
        with out_of_memory(), self._decoder.adapted(adapter):
            values = np.array(self._learned_losses(batch)).astype(np.float64)
        rows = np.repeat(np.arange(len(counts)), counts)
        return np.bincount(rows, values, minlength=len(counts)), counts

    def ending_losses(
        self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[Sequence[int]]], *, adapter: bool = True
    ) -> list[np.ndarray]:
        with out_of_memory():
            return self.slots(adapter=adapter).ending_losses(prompts, endings)

    def logits(self, ids: Sequence[int], *, adapter: bool = True) -> np.ndarray:
        with out_of_memory(), self._decoder.adapted(adapter):
            return np.array(self._decoder.head(self._decoder.hidden(mx.array([list(ids)]))[0]))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: frozenset[int],
        temperature: float = 0.0,
        seed: int = 0,
        adapter: bool = True,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Generation]:
        if not all(prompts):
            raise EngineError("a prompt to continue has no tokens; give it at least one")
        rows, pick = range(len(prompts)), Picker(temperature, seed)
        with out_of_memory():
            found = write(self.slots(adapter=adapter), rows, prompts, pick, max_new_tokens, stop, on_token)
        return [found[row] for row in rows]

    def slots(self, *, adapter: bool = True) -> MlxSlots:
        return MlxSlots(self._decoder, adapter)

    def side_by_side(self, do: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        with out_of_memory():
            return [do(job) for job in jobs]

    def adapter_arrays(self) -> dict[str, np.ndarray]:
        return to_numpy(self._adapter().arrays)

    def load_adapter_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        lora = self._adapter()
        lora.arrays = like(lora.arrays, arrays)

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        m, v = (to_numpy(moments) for moments in (self._optimizer.m, self._optimizer.v))
        return {f"m.{name}": array for name, array in m.items()} | {f"v.{n}": a for n, a in v.items()}

    def load_optimizer_arrays(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        now = self._adapter().arrays
        taken = like({f"{part}.{name}": now[name] for part in "mv" for name in now}, arrays) if arrays else {}
        m, v = ({n[2:]: a for n, a in taken.items() if n.startswith(part)} for part in ("m.", "v."))
        self._optimizer = AdamW(m, v, steps)

    def memory(self) -> int:
        return mx.get_peak_memory() if mx.metal.is_available() else peak_memory()

    def _adapter(self) -> Adapter:
        if self._decoder.lora is None:
            raise EngineError("there is no adapter on the model yet; call add_adapter first")
        return self._decoder.lora


class AdamW:
    """torch.optim.AdamW: decoupled weight decay, moments corrected for their start at zero
    (Loshchilov and Hutter, 2019, algorithm 2)."""

    def __init__(self, m: Arrays | None = None, v: Arrays | None = None, updates: int = 0):
        self.m, self.v, self.updates = m or {}, v or {}, updates

    def update(self, arrays: Arrays, gradients: Arrays, settings: StepSettings) -> Arrays:
        """The arrays after one more update."""
        if not self.m:
            self.m, self.v = ({name: mx.zeros_like(a) for name, a in arrays.items()} for _ in "mv")
        self.updates += 1
        (b1, b2), rate = BETAS, settings.learning_rate
        unbias1, unbias2 = 1 - b1**self.updates, math.sqrt(1 - b2**self.updates)
        result = {}
        for name, g in gradients.items():
            m = self.m[name] = b1 * self.m[name] + (1 - b1) * g
            v = self.v[name] = b2 * self.v[name] + (1 - b2) * g * g
            decayed = arrays[name] * (1 - rate * settings.weight_decay)
            result[name] = decayed - (rate / unbias1) * m / (mx.sqrt(v) / unbias2 + EPSILON)
        mx.eval(result, self.m, self.v)
        return result


def global_norm(gradients: Arrays) -> float:
    """Length of all gradients taken as one vector."""
    return math.sqrt(number(mx.sum(mx.stack([mx.sum(g * g) for g in gradients.values()]))))


def number(scalar: mx.array) -> float:
    return float(scalar.item())  # type: ignore[arg-type]  # complex is among its types


def step_key(settings: StepSettings, rank: int, part: int) -> mx.array:
    """The key of all that is random in one part of the rows: a step taken again draws the same."""
    return mx.random.key(int(settings.entropy(rank, part).generate_state(1, np.uint64)[0]))


def compute_dtype(dtype: str, machine: str, system: str) -> mx.Dtype:
    """What "auto", "bf16" or "fp32" means on this machine."""
    if dtype == "auto":
        dtype = "bf16" if (machine, system) == ("arm64", "darwin") else "fp32"
    known = {"bf16": mx.bfloat16, "fp32": mx.float32}
    if dtype not in known:
        raise EngineError(f"dtype {dtype!r} is unknown to the MLX engine; choose auto, bf16 or fp32")
    return known[dtype]


def settled(dtype: str) -> Precision:
    return "bf16" if compute_dtype(dtype, platform.machine(), sys.platform) == mx.bfloat16 else "fp32"


def device_limits() -> tuple[int | None, int | None]:
    """What the GPU may use, and one buffer of it, in bytes; None without a GPU."""
    if not mx.metal.is_available():
        return None, None
    device = mx.device_info()
    return wired_limit(device), int(device.get("max_buffer_length", 0)) or None


def wired_limit(device: Mapping[str, str | int]) -> int | None:
    """Bytes that macOS is asked to keep in memory for the GPU: all it recommends, so that a model
    near the limit is not paged out between steps. None where the device recommends nothing."""
    size = device.get("max_recommended_working_set_size")
    return int(size) if size else None


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Translate MLX's errors about memory; let all others through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(w in text for w in ("malloc", "Insufficient Memory", "OutOfMemory")):
            mx.clear_cache()  # a smaller step may follow
            raise OutOfMemory(
                f"this does not fit into memory ({text}); make the batch, max_tokens or layers smaller"
            ) from error
        raise


def like(expected: Arrays, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """``arrays`` on MLX in float32. Raises `EngineError` unless names and shapes are the expected ones."""
    check_layout(expected, arrays)
    return {name: mx.array(arrays[name].astype(np.float32)) for name in expected}


def _states(states: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """As `MlxEngine.prefix` gave them: float32, or the bits of bf16."""
    array = mx.array(states)
    return (array.view(mx.bfloat16) if states.dtype == np.uint16 else array).astype(dtype)


def to_numpy(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in arrays.items()}
