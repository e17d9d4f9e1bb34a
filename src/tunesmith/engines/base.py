"""The seam between the loop and tensors, cut at the optimizer step.

Only token ids, masks, numpy arrays, numbers and paths cross it. One loop drives any engine; an
engine knows nothing of rows, templates, schedules or files of a run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np

from tunesmith.engines.ranks import Ranks
from tunesmith.engines.writing import Generation, Slots
from tunesmith.models.architecture import Architecture

Job = TypeVar("Job")
Result = TypeVar("Result")

Precision = Literal["bf16", "fp32"]
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length.

    ids: int32 [rows, length]; padding is 0 and is never attended to by a real token (attention is causal)
    learn: bool [rows, length]; True where the token itself is to be predicted; False on padding and at 0
    lengths: int32 [rows]; tokens of each row without padding
    states: [rows, length, width] as `Engine.prefix` gives them, zero on padding; None where they are not known
    """

    ids: np.ndarray
    learn: np.ndarray
    lengths: np.ndarray
    states: np.ndarray | None = None

    @property
    def learned(self) -> int:
        """How many tokens are predicted."""
        return int(self.learn.sum())

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding not counted."""
        return int(self.lengths.sum())

    def rows(self, taken: Sequence[int]) -> Batch:
        """Some of the rows, padded no longer than they need."""
        rows, lengths = list(taken), self.lengths[list(taken)]
        longest = int(lengths.max())
        states = None if self.states is None else self.states[rows, :longest]
        return Batch(self.ids[rows, :longest], self.learn[rows, :longest], lengths, states)

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[Sequence[int] | np.ndarray, Sequence[bool] | np.ndarray]],
        states: Sequence[np.ndarray] | None = None,
    ) -> Batch:
        """Pad rows of (token ids, learn mask) to the longest, and their states [length, width] with them."""
        length = max(len(ids) for ids, _ in rows)
        ids = np.zeros((len(rows), length), np.int32)
        learn = np.zeros((len(rows), length), bool)
        for i, (row_ids, row_learn) in enumerate(rows):
            ids[i, : len(row_ids)] = row_ids
            learn[i, : len(row_learn)] = row_learn
        learn[:, 0] = False  # nothing comes before the first token to predict it from
        padded = None
        if states is not None:
            padded = np.zeros((len(rows), length, states[0].shape[1]), states[0].dtype)
            for i, row in enumerate(states):
                padded[i, : len(row)] = row
        return cls(ids, learn, np.array([len(r) for r, _ in rows], np.int32), padded)


@dataclass(frozen=True)
class LoraShape:
    """Which weights get a low-rank update W + (alpha / rank) B A.

    layers counts from the top; None means all. modules are names out of `LORA_MODULES`.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    modules: tuple[str, ...] = LORA_MODULES
    layers: int | None = None

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class StepSettings:
    """What an optimizer step is told besides its rows. Dropout is drawn from (seed, step, rank, index of the
    micro-batch and of its part on a core) alone, so that a step taken again after a crash is the same step. Another
    number of processes cuts other parts: it draws otherwise, and without dropout it gives the same numbers."""

    def entropy(self, rank: int, *part: int) -> np.random.SeedSequence:
        """What a part of the rows on one rank draws from; the first rank's draws are those of a process alone."""
        return np.random.SeedSequence([self.seed, self.step, *part, *([rank] if rank else [])])

    step: int
    learning_rate: float
    weight_decay: float = 0.0
    clip: float | None = 1.0
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """loss: mean negative log-likelihood per learned token (nats) before the update;
    gradient_norm: before clipping; tokens: learned tokens."""

    loss: float
    gradient_norm: float
    tokens: int


class Engine(Protocol):
    """A base model with one LoRA adapter on it.

    Adapter arrays are float32 under PEFT's names:
    ``base_model.model.model.layers.{i}.self_attn.q_proj.lora_A.weight`` [rank, in] and
    ``….lora_B.weight`` [out, rank] (``mlp.`` for gate, up and down).
    """

    name: str
    """"torch", "mlx" or "fake"."""
    precision: Precision
    """What the base computes in."""
    arch: Architecture
    """The shape of the base."""
    ranks: Ranks
    """The processes that train one adapter together."""

    def add_adapter(self, shape: LoraShape, seed: int) -> None:
        """Put a fresh adapter on the base: A uniform in ±1/sqrt(in), from numpy's PCG64(seed), B zero;
        see `engines.adapter.fresh`. Optimizer state is emptied."""
        ...

    def step(self, micro_batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """One AdamW update (betas 0.9, 0.999, eps 1e-8, bias corrected) on the micro-batches together:
        the loss is the sum of negative log-likelihoods over all learned tokens, divided by their number. A micro-batch
        without learned tokens is skipped; when no token is learned at all it raises `TrainingError`.
        When loss or gradient is not finite, nothing is updated.

        With several ranks each gives its own micro-batches, or none, and the step is that of all of them together:
        tokens, losses and gradients are added before anything is divided or clipped."""
        ...

    def prefix(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What enters the lowest layer that the adapter trains, for rows of token ids: [length, width] each, uint16
        (the bits of bf16) or float32. It depends on nothing that training changes; batches that carry it as ``states``
        take the same step, and have the same losses, without the layers below."""
        ...

    def losses(self, batch: Batch, *, adapter: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Summed negative log-likelihood (float64 [rows], nats) and learned tokens (int64 [rows])."""
        ...

    def ending_losses(
        self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[Sequence[int]]], *, adapter: bool = True
    ) -> list[np.ndarray]:
        """Summed negative log-likelihood (float64, nats) of each of a prompt's ``endings`` behind it, by prompt, all at
        once. As `losses` of every prompt with every ending, but a prompt is read only once."""
        ...

    def logits(self, ids: Sequence[int], *, adapter: bool = True) -> np.ndarray:
        """float32 [length, vocabulary] for one row."""
        ...

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
        """Continue every prompt until a stop id (not part of the result) or the limit, all at once.
        A row's draws come from (seed, row) alone. ``on_token(row, id)`` is called as each token comes."""
        ...

    def slots(self, *, adapter: bool = True) -> Slots:
        """Texts that are written together and may begin at any time, with the adapter as it is now or without it."""
        ...

    @property
    def lanes(self) -> int:
        """How many `slots` are stepped side by side faster than one with the texts of all."""
        ...

    def side_by_side(self, do: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """``do`` of every job, each of which steps slots of its own; results in order."""
        ...

    def adapter_arrays(self) -> dict[str, np.ndarray]:
        """The adapter as it is now, copied."""
        ...

    def load_adapter_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Replace the adapter's values; raises `EngineError` unless names and shapes are its own."""
        ...

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        """First and second moments under ``m.<adapter name>`` and ``v.<adapter name>``, float32,
        in PEFT's orientation on every engine; empty before the first step."""
        ...

    def load_optimizer_arrays(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        """Take moments back, as they were after ``steps`` updates."""
        ...

    def memory(self) -> int:
        """Peak memory of this process in bytes (device memory where that is apart)."""
        ...


def peak_memory() -> int:
    """The most memory this process ever held, in bytes."""
    import resource  # not on Windows

    with contextlib.suppress(OSError):  # Linux: ru_maxrss begins with what the parent held
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def iterate_by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in groups that padded have at most ``tokens`` tokens (or one row), longest first."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if group and (len(group) + 1) * lengths[group[0]] > tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def iterate_by_padding(lengths: Sequence[int] | np.ndarray, spared: int) -> Iterator[list[int]]:
    """Indices, longest first, in groups cut wherever that spares at least so many tokens of padding."""
    waiting = [sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))]
    while waiting:
        group = waiting.pop()
        longest = lengths[group[0]]
        gains = [(longest - lengths[i]) * (len(group) - at) for at, i in enumerate(group)]
        cut = int(np.argmax(gains))
        if gains[cut] < spared:
            yield group
        else:
            waiting += [group[cut:], group[:cut]]


def iterate_by_length(lengths: Sequence[int] | np.ndarray, rows: int) -> Iterator[list[int]]:
    """Indices in groups of at most ``rows``, longest first, so that little is padded and what does
    not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]
