"""Does the exported file give the numbers that the trained model gives, and end where it ends?

Logits of a large vocabulary are large: rows are compared one after the other, and llama.cpp's wait on
disk, no more than `WAITING` bytes of them.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tunesmith import machine
from tunesmith.dataset.tokens import encode
from tunesmith.engines.base import Engine
from tunesmith.engines.writing import Generation
from tunesmith.errors import StorageError
from tunesmith.export.proof_limits import Broken, Check, KindLimits
from tunesmith.models.chat import ChatFormat
from tunesmith.models.llamacpp import ask_llamacpp
from tunesmith.models.verify import compare_logits
from tunesmith.sources.example import Example

WAITING = 1 << 29
"""Bytes of llama.cpp's logits that lie on disk at one time: 512 MB."""

Row = tuple[list[int], list[bool]]


@dataclass(frozen=True)
class Distance:
    """How far the file in llama.cpp is from the trained model, over ``tokens`` positions.

    kl: mean of KL(trained || file) in nats a token, and the largest of a single position; top1: share of
    positions with the same likeliest token; difference: largest between two logits; perplexities: on
    the learned tokens (nan when there are none); base_kl: KL(base || file) where there is an adapter.
    """

    tokens: int
    kl: float
    largest_kl: float
    top1: float
    difference: float
    perplexity_trained: float
    perplexity_file: float
    base_kl: float | None = None

    @property
    def perplexity_ratio(self) -> float:
        """The file's perplexity over that of the trained model; 1 is the same, nan when nothing is learned."""
        return self.perplexity_file / self.perplexity_trained


def learned_rows(rows: Sequence[Example], chat: ChatFormat, tokens: int, longest: int) -> list[Row]:
    """Ids and learn masks of held-out rows, each cut at ``longest``, until there are ``tokens``."""
    taken, total = list[Row](), 0
    for example in rows:
        for sequence in encode(example, chat, longest):
            if total >= tokens:
                return taken
            room = min(longest, tokens - total)
            if len(sequence.ids[:room]) > 1:
                taken.append((sequence.ids[:room], sequence.learn[:room]))
                total += len(taken[-1][0])
    return taken


def measure(
    gguf: Path, engine: Engine, rows: Sequence[Row], *, adapter: bool,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Distance:  # fmt: skip
    """Both models over the same ids. Raises `ModelError` when llama.cpp cannot run the file, or its vocabulary
    has another size."""
    sums = _Sums()
    done, total = 0, sum(len(ids) for ids, _ in rows)
    for part in _parts(rows, engine):
        for (ids, learn), reference in zip(part, ask_llamacpp(gguf, [ids for ids, _ in part]), strict=True):
            assert reference.logits is not None
            sums.add(ids, learn, engine.logits(ids, adapter=adapter), reference.logits)
            if adapter:
                sums.base_kl.append(compare_logits(engine.logits(ids, adapter=False), reference.logits)[0])
            done += len(ids)
            on_progress(done / total)
    return sums.distance()


def _parts(rows: Sequence[Row], engine: Engine) -> Iterator[list[Row]]:
    """Rows in groups whose logits may wait on disk together. Raises `StorageError` where not even one's may."""
    place = tempfile.gettempdir()
    free, size = shutil.disk_usage(place).free, 4 * engine.logits(rows[0][0][:1], adapter=False).shape[-1]
    if (longest := size * max(len(ids) for ids, _ in rows)) > free:
        raise StorageError(
            f"the disk is full: {place} has room for {machine.size(free)}, and a proof keeps {machine.size(longest)} "
            "there; free some space, or name another place with TMPDIR"
        )
    room, part = min(WAITING, free) // size, list[Row]()
    for row in rows:
        if part and sum(len(ids) for ids, _ in part) + len(row[0]) > room:
            yield part
            part = []
        part.append(row)
    yield part


@dataclass
class _Sums:
    kl: list[np.ndarray] = field(default_factory=list)
    same: list[np.ndarray] = field(default_factory=list)
    base_kl: list[np.ndarray] = field(default_factory=list)
    difference: float = 0.0
    trained: float = 0.0
    file: float = 0.0
    learned: int = 0

    def add(self, ids: list[int], learn: list[bool], trained: np.ndarray, file: np.ndarray) -> None:
        kl, same, difference = compare_logits(trained, file)
        self.kl.append(kl)
        self.same.append(same)
        self.difference = max(self.difference, difference)
        for i in np.flatnonzero(learn[1:]):  # position i predicts token i + 1
            self.trained += surprise(trained[i], ids[i + 1])
            self.file += surprise(file[i], ids[i + 1])
            self.learned += 1

    def distance(self) -> Distance:
        kl, same = np.concatenate(self.kl), np.concatenate(self.same)
        losses = (self.trained / self.learned, self.file / self.learned) if self.learned else (math.nan, math.nan)
        base = float(np.concatenate(self.base_kl).mean()) if self.base_kl else None
        trained, file = (math.exp(min(loss, 700)) for loss in losses)
        # Rounding takes a KL of zero to just below; what is no number stays none.
        mean, largest = (float(np.maximum(0.0, value)) for value in (kl.mean(), kl.max()))
        return Distance(len(kl), mean, largest, float(same.mean()), self.difference, trained, file, base)


def surprise(logits: np.ndarray, token: int) -> float:
    """-log p(token), in nats."""
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(np.log(np.exp(shifted).sum()) - shifted[token])


def model_check(distance: Distance, limit: KindLimits) -> Check:
    """The logits. A file that is far nearer to the base than to the trained model does not hold, however near."""
    d = distance
    ratio = max(d.perplexity_ratio, 1 / d.perplexity_ratio) if d.perplexity_ratio > 0 else math.inf
    # Said as "is not within": a number that is none breaks every limit.
    found = [
        (d.kl <= limit.kl, "kl", f"mean KL {_apart(d.kl, limit.kl)}", f"at most {limit.kl:g}"),
        (d.largest_kl <= limit.largest_kl, "largest_kl",
         f"KL {_apart(d.largest_kl, limit.largest_kl)} at the worst token", f"at most {limit.largest_kl:g}"),
        (d.top1 >= limit.top1, "top1", f"the same likeliest token {_apart(100 * d.top1, 100 * limit.top1)} % of the "
         "time", f"at least {100 * limit.top1:g} %"),
        (limit.difference is None or d.difference <= limit.difference, "difference",
         f"logits that differ by {_apart(d.difference, limit.difference or 0)}", f"at most {limit.difference or 0:g}"),
        (math.isnan(d.perplexity_ratio) or ratio <= limit.perplexity, "perplexity_ratio",
         f"perplexity off by a factor of {_apart(ratio, limit.perplexity)}", f"at most {limit.perplexity:g}"),
        (d.base_kl is None or math.isnan(d.kl) or d.base_kl >= d.kl / 2, "base_kl",
         f"mean KL {_apart(d.base_kl or 0, d.kl / 2)} to the untrained base", f"at least {d.kl / 2:.2g}"),
    ]  # fmt: skip
    asked = {"kl": limit.kl, "largest_kl": limit.largest_kl, "top1": limit.top1, "difference": limit.difference,
             "perplexity_ratio": limit.perplexity, "base_kl": None if d.base_kl is None else d.kl / 2}  # fmt: skip
    return Check(
        "model", asdict(d) | {"perplexity_ratio": d.perplexity_ratio}, asked,
        "On held-out rows the file in llama.cpp gives every next token the same probability as the trained model.",
        tuple(Broken(*said) for within, *said in found if not within),
    )  # fmt: skip


def _apart(value: float, limit: float) -> str:
    """With as many digits as it takes to see on which side of the limit it is."""
    said = f"{value:g}"
    for digits in range(3, 8):
        said = f"{value:.{digits}g}"
        if float(said) != limit and (float(said) < limit) == (value < limit):
            break
    return said


# -- answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parting:
    """Where an answer of the file leaves that of the trained model. gap: by how much the trained model's logit
    of its own token is above that of the other; ``tie`` when that is next to nothing."""

    prompt: int
    at: int
    trained: str
    found: str
    gap: float
    tie: bool


def partings(
    engine: Engine, chat: ChatFormat, prompts: Sequence[list[int]], trained: Sequence[Generation],
    found: Sequence[Generation], *, adapter: bool, tie: float,
) -> list[Parting]:  # fmt: skip
    """The answers that are not the same, token by token and in their end."""
    parted = list[Parting]()
    for i, (ours, theirs) in enumerate(zip(trained, found, strict=True)):
        if ours == theirs:
            continue
        pairs = enumerate(zip(ours.ids, theirs.ids, strict=False))
        at = next((k for k, (a, b) in pairs if a != b), min(len(ours.ids), len(theirs.ids)))
        logits = engine.logits([*prompts[i], *ours.ids[:at]], adapter=adapter)[-1]
        tops = [_next_score(logits, chat, generation, at) for generation in (ours, theirs)]
        gap = float(tops[0] - tops[1])
        texts = [chat.decode(g.ids[at : at + 6], special=True) or "(the end)" for g in (ours, theirs)]
        # A file that writes the end as a token and goes on does not tie with the model that ended there.
        unended = at < len(theirs.ids) and theirs.ids[at] in chat.stop
        parted.append(Parting(i, at, texts[0], texts[1], gap, tie=abs(gap) <= tie and not unended))
    return parted


def _next_score(logits: np.ndarray, chat: ChatFormat, generation: Generation, at: int) -> float:
    """The trained model's logit of what this answer goes on with: a token, or the end."""
    if at < len(generation.ids):
        return float(logits[generation.ids[at]])
    return max((float(logits[token]) for token in chat.stop), default=-math.inf)


def answer_checks(
    engine: Engine, chat: ChatFormat, prompts: Sequence[list[int]], trained: Sequence[Generation],
    found: Sequence[Generation], tuned: bool, tie: float, limit: KindLimits,
) -> list[Check]:  # fmt: skip
    """The greedy text of the answers, and whether they end."""
    if not prompts:
        return []
    parted = partings(engine, chat, prompts, trained, found, adapter=tuned, tie=tie)
    real = [p for p in parted if not p.tie]
    same = f"{len(prompts) - len(real)} of {len(prompts)} answers the same"
    text = Check(
        "text",
        {"prompts": len(prompts), "same": len(prompts) - len(parted), "ties": len(parted) - len(real),
         "different": [asdict(p) for p in parted[:5]]},
        {"same": "all but ties" if limit.same_text else "not asked of this kind: its rounding decides near ties"},
        "Asked held-out questions, the file answers word for word as the trained model.",
        (Broken("same", same, "all must be"),) if real and limit.same_text else (),
    )  # fmt: skip
    tied = {p.prompt for p in parted if p.tie}
    longer = [i for i in run_on(trained, found) if i not in tied]
    missed = [i for i in longer if found[i].ids[: len(trained[i].ids)] == trained[i].ids]
    most, over = limit.run_on * len(prompts), list[Broken]()
    if len(longer) > most:
        said = f"{len(longer)} of {len(prompts)} answers ran to the limit"
        over.append(Broken("ran to the limit", said, f"at most {most:g}"))
    if missed:
        said = f"{len(missed)} of {len(prompts)} answers did not stop where the trained model's did"
        over.append(Broken("did not stop where training's did", said, "none may"))
    end = Check(
        "end",
        {"prompts": len(prompts), "ended in training's model": sum(g.stopped for g in trained),
         "ended in the file": sum(g.stopped for g in found), "ran to the limit": len(longer),
         "did not stop where training's did": len(missed)},
        {"ran to the limit": most, "did not stop where training's did": 0},
        "Answers stop at their end token: none runs to the limit that did not in the trained model.",
        tuple(over),
    )  # fmt: skip
    return [text, end]


def run_on(trained: Sequence[Generation], found: Sequence[Generation]) -> list[int]:
    """The prompts whose answer ends in training and runs to the limit in the file."""
    return [
        i for i, (ours, theirs) in enumerate(zip(trained, found, strict=True)) if ours.stopped and not theirs.stopped
    ]
