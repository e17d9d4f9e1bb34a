"""What a proof asks for, and what it says of one thing that it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class KindLimits:
    """How far a file of one kind may be from the trained model."""

    kl: float
    """Mean KL(trained || file), nats a token."""
    largest_kl: float
    """The same at the worst position."""
    top1: float
    """Least share of positions where both find the same token likeliest."""
    perplexity: float
    """Largest ratio of the two perplexities on the learned tokens, either way."""
    difference: float | None = None
    """Largest difference of two logits; None: not asked."""
    same_text: bool = False
    """Whether greedy answers must be the same, ties left out."""
    run_on: float = 0.1
    """Share of answers that may run to the limit where the trained model's ended, if their text had left its text
    before."""


@dataclass(frozen=True)
class Limits:
    """What is compared, and what it may differ by."""

    tokens: int = 1024
    """Held-out tokens whose logits are compared."""
    row_tokens: int = 256
    """A row is compared up to here: a row's logits are held in memory, twice."""
    conversations: int = 4
    """Held-out rows whose prompts are compared, in five shapes each."""
    prompts: int = 12
    """Held-out questions that both models answer."""
    max_new_tokens: int = 64
    """An answer longer than this is cut."""
    tie: float = 0.02
    """Two tokens whose logits are nearer than that are a tie: either may come."""
    f16: KindLimits = KindLimits(5e-5, 5e-3, 0.97, 1.005, 0.5, same_text=True, run_on=0.0)
    """F16 and F32. Measured on the starter with the demo's adapter, 1,024 tokens, 12 prompts: KL 3.0e-6, largest
    4.1e-5, top-1 0.999, perplexity ratio 1.00004, difference 0.07, the same text 12 of 12."""
    bf16: KindLimits = KindLimits(2e-3, 0.1, 0.97, 1.03, 3.0, same_text=False, run_on=0.05)
    """Measured: KL 1.7e-4, largest 0.0027, top-1 1.0, ratio 0.99998, difference 0.48."""
    q8_0: KindLimits = KindLimits(0.02, 0.5, 0.93, 1.05)
    """Measured: KL 0.0042, largest 0.041, top-1 0.986, ratio 0.999."""
    q6_k: KindLimits = KindLimits(0.04, 1.0, 0.9, 1.1)
    """Measured: KL 0.011, largest 0.15, top-1 0.962, ratio 0.998."""
    q5_k_m: KindLimits = KindLimits(0.12, 3.0, 0.85, 1.25)
    """Between those of q6_k and q4_k_m. The starter does not hold: KL 0.31, largest 5.9, top-1 0.81. Its base was in
    four bits before, and Q5_1 makes half as much again of what training changed."""
    q4_k_m: KindLimits = KindLimits(0.2, 8.0, 0.8, 1.5)
    """Q4_K_M and the other kinds of four bits. Measured on two adapters of the demo: KL 0.065 and 0.075, largest 0.66
    and 5.1 (one sure token in 1,024 that becomes another), top-1 0.915 and 0.866, ratio 1.005 in both."""

    def of(self, kind: str) -> KindLimits:
        """The limits of a kind that `kind_of` names."""
        return getattr(self, kind)


BY_BITS = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")
"""Kinds in the order of their bits. bf16 is not among them: it has no more than f16, and rounds coarser."""


def finer(kind: str) -> tuple[str, ...]:
    """The kinds that round less than this one, the nearest first."""
    return BY_BITS[BY_BITS.index(kind) + 1 :] if kind in BY_BITS else BY_BITS[-1:]


@dataclass(frozen=True)
class Others:
    """What is known of other files of the same run: the kinds whose proof holds, and those whose does not."""

    held: Sequence[str] = ()
    failed: Sequence[str] = ()

    def instead_of(self, kind: str) -> str:
        """What to do when rounding to this kind lost too much."""
        better = [other for other in finer(kind) if other not in self.failed]
        if held := [other for other in better if other in self.held]:
            return f"take {held[0]}, which held in this run"
        if better:
            return f"take {better[0]} (--quant {better[0]}), the next kind with more bits"
        return "take the merged folder (--to merged), which is not rounded"


@dataclass(frozen=True)
class Broken:
    """One limit that was broken. number: its key in `Check.measured`; said: what was found; limit: what may be."""

    number: str
    said: str
    limit: str


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``means``: what it says where it holds, in one plain sentence."""

    name: str
    measured: dict[str, Any]
    limit: dict[str, Any]
    means: str
    broken: tuple[Broken, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "holds": self.holds, **asdict(self)}
