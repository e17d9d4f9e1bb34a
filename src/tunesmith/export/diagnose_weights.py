"""Which tensors of an exported file are not those of the trained model, and what was done wrong to them.

Every tensor is held against the merged weights, and against what the usual mistakes make of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import quants

from tunesmith.export.diagnose import DISTORTED, Cause
from tunesmith.export.weights import Weights, spans
from tunesmith.models import gguf_tensors
from tunesmith.models.architecture import Architecture, read_architecture
from tunesmith.models.gguf_file import Gguf, GgufTensor

ROUNDING = {
    "F32": 1e-3, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 0.015, "Q6_K": 0.04, "Q5_K": 0.08, "Q5_0": 0.1, "Q5_1": 0.1,
    "Q4_K": 0.16, "Q4_0": 0.2, "Q4_1": 0.2,
}  # fmt: skip
"""How far a tensor may be from the expected one, ‖stored - expected‖ / ‖expected‖, by its type. Measured on the
starter with the demo's adapter, at most: Q8_0 0.007, Q6_K 0.018, Q5_0 0.052, Q5_1 0.053; Q5_K 0.022 and Q4_K 0.021 in
ffn_down (less than usual: the starter was in four bits before). Another order of rows gives about 1.4."""
FINE = ("F32", "F16", "BF16", "Q8_0", "Q6_K")
"""Types that keep what training moved. Measured there, as a share of it: 0.93 to 1.007 when it was merged, 0.01 at
most when it was not. Coarser ones make 0.05 (Q4_K) to 1.8 (Q5_1) of it where the base was in four bits before, as
the starter was: its levels and theirs meet at the edges of rounding."""
NOISE = 0.03
"""Where rounding alone would give shares larger than that, a tensor says nothing of the adapter."""


@dataclass(frozen=True)
class _Verdict:
    """What one tensor shows. ``share``: how much of what training moved is in it; 1 is all, 0 nothing, None where
    training moved nothing or rounding hides it. ``fine``: whether its type should keep all of it."""

    name: str
    wrong: str = ""
    share: float | None = None
    fine: bool = True


_WRONG = {
    "zeroed tensor": "{0} is all zeros in the file, and in the trained model it is not.",
    "q/k permutation missing": "{0} is in another order of rows than llama.cpp expects: the permutation of q and k is "
    "missing.",
    "q/k permutation done twice": "{0} is in another order of rows than llama.cpp expects: the permutation of q and k "
    "was done twice.",
    "q/k permutation not wanted": "{0} is in another order of rows than llama.cpp expects: q and k were permuted, "
    "which is right for llama alone.",
    "norm offset missing": "{0} lacks the 1 that llama.cpp expects to be added to this family's norms.",
    "not finite": "{0} holds numbers that are not finite.",
    "another tensor": "{0} holds other weights than the trained model (its values are off by more than rounding).",
    "unexpected tensor": "{0} is a tensor that the trained model does not have.",
    "missing tensor": "{0} is missing from the file.",
}


def tensor_causes(
    gguf: Gguf, base: Path, adapter: Path | None, on_progress: Callable[[float], None] | None = None
) -> list[Cause]:
    """Every tensor of the file against the merged weights, in slices: memory stays at a few MB."""
    reader = _Reader(gguf, Weights(base, adapter), Weights(base), read_architecture(base))
    verdicts, seen, done = list[_Verdict](), set[str](), 0
    total = sum(t.nbytes for t in gguf.tensors.values())
    for stored in gguf.tensors.values():
        if stored.name != "rope_freqs.weight":
            verdicts.append(reader.judge(stored, seen))
        done += stored.nbytes
        if on_progress:
            on_progress(done / total)
    verdicts += [_Verdict(name, "missing tensor") for name in reader.trained.names() if name not in seen]
    return _summed_up(verdicts)


def _summed_up(verdicts: list[_Verdict]) -> list[Cause]:
    causes = list[Cause]()
    for name, sentence in _WRONG.items():
        if places := [v.name for v in verdicts if v.wrong == name]:
            more = f" The same goes for {len(places) - 1} more." if len(places) > 1 else ""
            causes.append(Cause(name, sentence.format(places[0]) + more, tuple(places[:20])))
    shares = {v.name: v.share for v in verdicts if v.share is not None and not v.wrong}
    fine = {v.name for v in verdicts if v.fine}
    absent = [name for name, share in shares.items() if share < (0.5 if name in fine else NOISE)]
    bent = {name: share for name, share in shares.items() if name not in absent and not 0.5 <= share <= 1.5}
    if absent:
        causes.insert(0, Cause(
            "adapter not merged",
            f"{len(absent)} of {len(shares)} tensors that training changed are the base's in the file "
            f"({absent[0]} is the first): the adapter is not in it.",
            tuple(absent[:20]),
        ))  # fmt: skip
    if bent:
        low, high = min(bent.values()), max(bent.values())
        causes.append(Cause(
            DISTORTED,
            f"quantizing made {low:.0%} to {high:.0%} of what training changed in {len(bent)} of {len(shares)} tensors "
            f"({next(iter(bent))} is the first), as happens where the base was in few bits before",
            tuple(list(bent)[:20]),
        ))  # fmt: skip
    return causes


@dataclass
class _Reader:
    """Judges one tensor after the other."""

    gguf: Gguf
    trained: Weights
    plain: Weights
    arch: Architecture

    def judge(self, stored: GgufTensor, seen: set[str]) -> _Verdict:
        name = gguf_tensors.hf_name(stored.name, gemma=self.arch.family == "gemma3")
        names = self.trained.names()
        if name == "lm_head.weight" and name not in names:
            name = "model.embed_tokens.weight"  # tied, and written once more
        if name is None or name not in names or self.trained.shape(name) != stored.shape:
            return _Verdict(stored.name, "unexpected tensor")
        seen.add(name)
        errors = self._errors(stored, name)
        size, limit = errors.pop("size"), ROUNDING.get(stored.type.name, 0.2)
        zero, broken = errors.pop("stored") == 0, not np.isfinite(errors["right"])
        off = {key: (value / size) ** 0.5 if size else float(value > 0) for key, value in errors.items()}
        if zero and size:
            return _Verdict(stored.name, "zeroed tensor")
        if broken:
            return _Verdict(stored.name, "not finite")
        if min(off["right"], off["base"]) <= limit:
            return _Verdict(stored.name, "", _share(errors, stored.shape), stored.type.name in FINE)
        found = next((mistake for mistake in _WRONG if off.get(mistake, np.inf) <= limit), "another tensor")
        return _Verdict(stored.name, found)

    def _errors(self, stored: GgufTensor, name: str) -> dict[str, float]:
        """Sums of squares: of the expected tensor (``size``), of the stored one, of what training moved, and of the
        stored one's distance from the expected (``right``), the base's (``base``) and the mistaken ones."""
        rows = self.gguf.rows(stored)
        offset = np.float32(self.arch.norm_offset if name.endswith("norm.weight") else 0.0)
        orders = self._orders(name, stored.shape[0])
        sums: dict[str, float] = {}

        def add(key: str, values: np.ndarray) -> None:
            flat = values.reshape(-1)
            sums[key] = sums.get(key, 0.0) + float(np.dot(flat, flat))

        for start, stop in spans(stored.shape):
            want = self.trained.rows(name, start, stop)
            plain = self.plain.rows(name, start, stop) if self.trained.is_changed(name) else want
            got = self._floats(stored, rows, orders["right"], start, stop)
            add("size", want + offset)
            add("stored", got)
            add("moved", want - plain)
            add("right", got - want - offset)
            add("base", got - plain - offset)
            if offset:
                add("norm offset missing", got - want)
            for key, order in orders.items():
                if key != "right":
                    add(key, self._floats(stored, rows, order, start, stop) - want)
        return sums

    def _floats(
        self, stored: GgufTensor, rows: np.ndarray, order: np.ndarray | None, start: int, stop: int
    ) -> np.ndarray:
        """float32 of the stored rows that stand at ``start`` to ``stop`` in Hugging Face's order."""
        raw = rows[start:stop] if order is None else rows[order[start:stop]]
        return quants.dequantize(np.ascontiguousarray(raw), stored.type).reshape(stop - start, *stored.shape[1:])

    def _orders(self, name: str, rows: int) -> dict[str, np.ndarray | None]:
        """Which stored row comes at each place, if all is right and for each mistake."""
        heads = {"num_attention_heads": self.arch.heads, "num_key_value_heads": self.arch.kv_heads}
        order = gguf_tensors.row_order(name, rows, heads | {"model_type": "llama"})
        if order is None:
            return {"right": None}
        if self.arch.family not in ("llama", "mistral"):
            return {"right": None, "q/k permutation not wanted": order}
        return {"right": order, "q/k permutation missing": None, "q/k permutation done twice": order[order]}


def _share(errors: dict[str, float], shape: tuple[int, ...]) -> float | None:
    """The part of the move from base to trained that the stored tensor has made: (stored - base)·move / |move|²."""
    moved, nearest = errors["moved"], min(errors["right"], errors["base"])
    if not moved or (nearest / moved / math.prod(shape)) ** 0.5 > NOISE:
        return None
    return (errors["base"] - errors["right"] + moved) / (2 * moved)
