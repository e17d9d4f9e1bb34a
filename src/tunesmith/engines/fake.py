"""An engine that takes microseconds a step, for tests of everything that drives an engine.

The model is a softmax over the next token given this one alone: a token's embedding x, changed by every
low-rank update in the adapter, is compared with all embeddings,

    p(next | this) = softmax(E (x + sum of scale * B A x)),   x = E[this].

So an adapter of any `LoraShape` has PEFT's names, really learns, and is really an AdamW state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tunesmith.engines.adapter import check_layout, fresh
from tunesmith.engines.base import Batch, Job, LoraShape, Precision, Result, StepResult, StepSettings
from tunesmith.engines.ranks import ALONE, Ranks, total
from tunesmith.engines.writing import Generation, Slots
from tunesmith.errors import EngineError, TrainingError
from tunesmith.models.architecture import Architecture, Rope

Arrays = dict[str, np.ndarray]

WIDTH = 8
BETAS, EPSILON = (0.9, 0.999), 1e-8
UPHILL = 0.1
"""How far each adapter element goes up its gradient in a step that was told to diverge."""


def fake_architecture(vocabulary: int = 64, layers: int = 2) -> Architecture:
    """A shape whose modules all map `WIDTH` to `WIDTH`."""
    return Architecture(
        family="llama",
        layers=layers,
        width=WIDTH,
        mlp_width=WIDTH,
        heads=1,
        kv_heads=1,
        head_dim=WIDTH,
        vocabulary=vocabulary,
        norm_eps=1e-5,
        tied=True,
        context=1 << 20,
        rope=Rope(),
        windows=(None,) * layers,
    )


class FakeEngine:
    """`engines.base.Engine` in numpy. Token ids beyond ``vocabulary`` are folded into it.

    The same arrays, moments and rows give the same bytes. Two faults can be planted, by
    ``StepSettings.step``: at ``nan_at`` the loss is not a number; from ``diverge_at`` on every step
    climbs, so that training and held-out loss rise without end.
    """

    name = "fake"
    lanes = 2
    precision: Precision = "fp32"

    def __init__(
        self,
        vocabulary: int = 64,
        layers: int = 2,
        *,
        nan_at: int | None = None,
        diverge_at: int | None = None,
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
        self.arch = fake_architecture(vocabulary, layers)
        self._nan_at, self._diverge_at = nan_at, diverge_at
        self._embedding = np.random.default_rng(0).normal(size=(vocabulary, WIDTH))
        self._shape = LoraShape()
        self._arrays: Arrays = {}
        self._m: Arrays = {}
        self._v: Arrays = {}
        self._updates = 0

    def add_adapter(self, shape: LoraShape, seed: int) -> None:
        self._shape = shape
        self._arrays = fresh(self.arch, shape, seed)
        self._m, self._v, self._updates = {}, {}, 0

    def step(self, micro_batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """As `Engine.step`. When loss or gradient is not finite nothing is updated."""
        self._need_adapter()
        tokens = int(total(self.ranks, sum(batch.learned for batch in micro_batches)))
        if not tokens:
            raise TrainingError(f"step {settings.step} got no row with a token to learn; check the learn masks")
        loss, gradients = 0.0, {name: np.zeros(a.shape) for name, a in self._arrays.items()}
        for index, batch in enumerate(micro_batches):
            self._check_states(batch)
            loss += self._add_gradients(batch, self._inputs_kept(batch, settings, index), tokens, gradients)
        summed = self.ranks.sum([*gradients.values(), np.array(loss)])
        gradients, loss = dict(zip(gradients, summed, strict=False)), float(summed[-1])
        norm = float(np.sqrt(sum((g * g).sum() for g in gradients.values())))
        if settings.step == self._nan_at:
            return StepResult(float("nan"), float("nan"), tokens)
        if self._diverge_at is not None and settings.step >= self._diverge_at:
            self._climb(gradients)
        else:
            shrink = 1.0 if settings.clip is None else min(1.0, settings.clip / (norm + 1e-6))
            self._descend({name: g * shrink for name, g in gradients.items()}, settings)
        return StepResult(loss, norm, tokens)

    def prefix(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The embedding of each token: all that comes before the only layer."""
        self._need_adapter()
        return [self._embedding[np.asarray(row) % len(self._embedding)].astype(np.float32) for row in rows]

    def _check_states(self, batch: Batch) -> None:
        """States of other rows must never be used."""
        if batch.states is not None:
            for ids, states, length in zip(batch.ids, batch.states, batch.lengths, strict=True):
                if not np.array_equal(states[:length], self.prefix([ids[:length]])[0]):
                    raise AssertionError("these are the states of other tokens")

    def losses(self, batch: Batch, *, adapter: bool = True) -> tuple[np.ndarray, np.ndarray]:
        self._check_states(batch)
        rows, before, after = _learned(batch, len(self._embedding))
        nll = -_log_softmax(self._logits(before, adapter))[np.arange(len(after)), after]
        counts = np.bincount(rows, minlength=len(batch.ids)).astype(np.int64)
        return np.bincount(rows, nll, minlength=len(batch.ids)), counts

    def ending_losses(
        self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[Sequence[int]]], *, adapter: bool = True
    ) -> list[np.ndarray]:
        return self.slots(adapter=adapter).ending_losses(prompts, endings)

    def logits(self, ids: Sequence[int], *, adapter: bool = True) -> np.ndarray:
        return self._logits(np.asarray(ids) % len(self._embedding), adapter).astype(np.float32)

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
        results = []
        for row, prompt in enumerate(prompts):
            rng, last, result = np.random.default_rng([seed, row]), prompt[-1], Generation()
            while len(result.ids) < max_new_tokens and not result.stopped:
                logits = self.logits([last], adapter=adapter)[0].astype(np.float64)
                p = np.exp(_log_softmax(logits / temperature)) if temperature > 0 else None
                last = int(np.argmax(logits) if p is None else rng.choice(len(logits), p=p))
                result.stopped = last in stop
                if not result.stopped:
                    result.ids.append(last)
                    if on_token:
                        on_token(row, last)
            results.append(result)
        return results

    def slots(self, *, adapter: bool = True) -> FakeSlots:
        return FakeSlots(lambda ids: self.logits(ids, adapter=adapter))

    def side_by_side(self, do: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        return [do(job) for job in jobs]

    def adapter_arrays(self) -> dict[str, np.ndarray]:
        self._need_adapter()
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_adapter_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self._need_adapter()
        check_layout(self._arrays, arrays)
        self._arrays = {name: arrays[name].astype(np.float32) for name in self._arrays}

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        pairs = (("m", self._m), ("v", self._v))
        return {f"{part}.{name}": a.copy() for part, moments in pairs for name, a in moments.items()}

    def load_optimizer_arrays(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        self._need_adapter()
        if arrays:
            check_layout({f"{part}.{name}": a for part in "mv" for name, a in self._arrays.items()}, arrays)
        parts = ({n[2:]: a.astype(np.float32) for n, a in arrays.items() if n.startswith(p)} for p in ("m.", "v."))
        (self._m, self._v), self._updates = parts, steps

    def memory(self) -> int:
        """Bytes of the arrays held: the same in every run."""
        return sum(a.nbytes for held in (self._arrays, self._m, self._v) for a in held.values())

    def _logits(self, this: np.ndarray, adapter: bool) -> np.ndarray:
        """Folded ids [n] -> float64 [n, vocabulary]."""
        x = self._embedding[this]
        return (x + self._change(x) if adapter else x) @ self._embedding.T

    def _change(self, x: np.ndarray) -> np.ndarray:
        """What the adapter adds to states [n, width]."""
        pairs = [(x @ a.T) @ b.T for a, b in self._pairs()]
        return self._shape.scale * np.sum(pairs, axis=0) if pairs else np.zeros_like(x)

    def _pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """A and B of each update."""
        arrays = self._arrays
        return [(a, arrays[n.replace("lora_A", "lora_B")]) for n, a in arrays.items() if "lora_A" in n]

    def _add_gradients(self, batch: Batch, kept: np.ndarray, tokens: int, gradients: Arrays) -> float:
        """Add d(loss)/d(array) of one micro-batch to ``gradients``; its share of the mean loss."""
        _, before, after = _learned(batch, len(self._embedding))
        states, x, at = self._embedding[before], self._embedding[before] * kept, np.arange(len(after))
        log_p = _log_softmax((states + self._change(x)) @ self._embedding.T)
        error = np.exp(log_p)
        error[at, after] -= 1.0
        dy = self._shape.scale / tokens * (error @ self._embedding)
        for name, a in self._arrays.items():
            if "lora_A" in name:
                name_b = name.replace("lora_A", "lora_B")
                gradients[name] += (dy @ self._arrays[name_b]).T @ x
                gradients[name_b] += dy.T @ (x @ a.T)
        return float(-log_p[at, after].sum() / tokens)

    def _inputs_kept(self, batch: Batch, settings: StepSettings, micro_batch: int) -> np.ndarray:
        """Dropout's factor for each input [learned, width], from (seed, step, rank, micro-batch) alone."""
        keep = 1.0 - self._shape.dropout
        rng = np.random.default_rng(settings.entropy(self.ranks.rank, micro_batch))
        return (rng.random((int(batch.learn[:, 1:].sum()), WIDTH)) < keep) / keep

    def _descend(self, gradients: Arrays, settings: StepSettings) -> None:
        """torch.optim.AdamW, in float32."""
        if not self._m:
            self._m, self._v = ({name: np.zeros_like(a) for name, a in self._arrays.items()} for _ in "mv")
        self._updates += 1
        (b1, b2), rate = BETAS, settings.learning_rate
        unbias1, unbias2 = 1 - b1**self._updates, np.float32(np.sqrt(1 - b2**self._updates))
        for name, gradient in gradients.items():
            g = gradient.astype(np.float32)
            m = self._m[name] = b1 * self._m[name] + (1 - b1) * g
            v = self._v[name] = b2 * self._v[name] + (1 - b2) * g * g
            decayed = self._arrays[name] * (1 - rate * settings.weight_decay)
            self._arrays[name] = decayed - (rate / unbias1) * m / (np.sqrt(v) / unbias2 + EPSILON)

    def _climb(self, gradients: Arrays) -> None:
        for name, g in gradients.items():
            self._arrays[name] = (self._arrays[name] + UPHILL * np.sign(g)).astype(np.float32)

    def _need_adapter(self) -> None:
        if not self._arrays:
            raise EngineError("there is no adapter on the model yet; call add_adapter first")


class FakeSlots(Slots):
    """Nothing to remember: the next token depends on this one alone."""

    def __init__(self, logits: Callable[[list[int]], np.ndarray]) -> None:
        super().__init__()
        self._of = logits

    def _reserve(self, rows: int, room: int) -> None:
        pass

    def _copy(self, source: int, targets: slice, length: int) -> None:
        pass

    def _logits(self, ids: np.ndarray, rows: slice, starts: list[int], last: list[int]) -> np.ndarray:
        return self._of([int(row[place]) for row, place in zip(ids, last, strict=True)])

    def _losses(
        self, ids: np.ndarray, starts: list[int], at: tuple[np.ndarray, np.ndarray], targets: np.ndarray
    ) -> np.ndarray:
        logits = self._of(ids[at].tolist()).astype(np.float64)
        return -_log_softmax(logits)[np.arange(len(targets)), targets % logits.shape[-1]]


def _learned(batch: Batch, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each learned token: its row, the folded token before it, itself folded."""
    rows, before = np.nonzero(batch.learn[:, 1:])
    return rows, batch.ids[rows, before] % vocabulary, batch.ids[rows, before + 1] % vocabulary


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
