"""Writing several texts at once: each in a slot of its own, and whoever has ended leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

SHARED = 16
"""Fewer tokens than that are not worth being read once for several prompts."""
FEW_LENGTHS = 16
"""Prompts are padded to a multiple of that: a CPU writes new machine code for every new length."""


@dataclass
class Generation:
    """What one prompt was answered with. ``stopped`` is False when the limit ended it."""

    ids: list[int] = field(default_factory=list)
    stopped: bool = False


class Slots(ABC):
    """Texts of one loaded model, all of them one token longer with each `step`. New ones may begin at any time.

    They are kept without gaps in the first rows of a cache, each from column 0 on; what lies behind a text's end in its
    row is never looked at, so nothing is padded on the left and nothing moves when another text joins.
    """

    def __init__(self) -> None:
        self.rows = list[int]()
        """The texts under way, in the order that `step` takes tokens and gives logits; `leave` changes it."""
        self._lengths = list[int]()

    def admit(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        """Read these prompts; the texts are called ``rows`` from now on. There is room for so many tokens behind each
        at once; more is made when it is needed. Returns logits, float32 [prompts, vocabulary]."""
        first, shared = len(self.rows), shared_beginning(prompts)
        self._reserve(first + len(prompts), max(map(len, prompts)) + max(room, FEW_LENGTHS))
        if shared:
            self._begun([prompts[0][:shared]], first, 0)
            self._copy(first, slice(first + 1, first + len(prompts)), shared)
        logits = self._begun([prompt[shared:] for prompt in prompts], first, shared)
        self.rows += rows
        self._lengths += [len(prompt) for prompt in prompts]
        return logits

    def _begun(self, texts: Sequence[Sequence[int]], first: int, behind: int) -> np.ndarray:
        """Logits behind each text; all begin at the column ``behind``."""
        longest = -(-max(map(len, texts)) // FEW_LENGTHS) * FEW_LENGTHS  # what is behind an end is never looked at
        ids = np.array([[*text, *[0] * (longest - len(text))] for text in texts])
        return self._logits(ids, slice(first, first + len(texts)), [behind], [len(text) - 1 for text in texts])

    def admit_slowly(self, row: int, prompt: Sequence[int], piece: int) -> Iterator[np.ndarray | None]:
        """As `admit`, so many tokens at a time, so that the texts under way can go on in between: gives None, and at
        last the logits [1, vocabulary]. Until then nothing else may be admitted."""
        place = len(self.rows)
        self._reserve(place + 1, len(prompt) + FEW_LENGTHS)
        for start in range(0, len(prompt), piece):
            logits = self._begun([prompt[start : start + piece]], place, start)
            if start + piece < len(prompt):
                yield None
                continue
            if place != len(self.rows):  # some have left since
                self._copy(place, slice(len(self.rows), len(self.rows) + 1), len(prompt))
            self.rows.append(row)
            self._lengths.append(len(prompt))
            yield logits

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Put a token behind each text. Returns logits, float32 [rows, vocabulary]."""
        count = len(self.rows)
        self._reserve(count, max(self._lengths) + 1)
        logits = self._logits(np.array(tokens)[:, None], slice(0, count), self._lengths, [0] * count)
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    def ending_losses(
        self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[Sequence[int]]]
    ) -> list[np.ndarray]:
        """As `Engine.ending_losses`, where no text is under way. The endings of a prompt take turns in the same columns
        of its row, the longest first, so that those of a turn are of like length."""
        self.admit(range(len(prompts)), prompts, max(len(one) for each in endings for one in each))
        turns = [sorted(range(len(each)), key=lambda i: -len(each[i])) for each in endings]
        found = [np.zeros(len(each)) for each in endings]
        for turn in range(max(map(len, turns))):
            taken = [endings[row][order[turn]] if turn < len(order) else [] for row, order in enumerate(turns)]
            for row, loss in enumerate(self._turn([prompt[-1] for prompt in prompts], taken)):
                if turn < len(turns[row]):
                    found[row][turns[row][turn]] = loss
        return found

    def _turn(self, before: Sequence[int], endings: Sequence[Sequence[int]]) -> np.ndarray:
        """The loss of one ending of each text; ``before`` is each text's last token, which is read again with it."""
        ids = np.zeros((len(endings), max(1, *map(len, endings))), np.int64)
        for row, ending in enumerate(endings):
            ids[row, : max(1, len(ending))] = [before[row], *ending[:-1]]
        rows = np.repeat(np.arange(len(endings)), [len(ending) for ending in endings])
        columns = np.array([column for ending in endings for column in range(len(ending))], np.int64)
        targets = np.array([token for ending in endings for token in ending], np.int64)
        if not len(targets):
            return np.zeros(len(endings))
        losses = self._losses(ids, [length - 1 for length in self._lengths], (rows, columns), targets)
        return np.bincount(rows, losses, minlength=len(endings))

    def leave(self, rows: Sequence[int]) -> None:
        """Forget these texts; the last ones take their places."""
        for row in rows:
            place, last = self.rows.index(row), len(self.rows) - 1
            if place != last:
                self._copy(last, slice(place, place + 1), self._lengths[last])
            self.rows[place], self._lengths[place] = self.rows[last], self._lengths[last]
            self.rows.pop()
            self._lengths.pop()

    @abstractmethod
    def _reserve(self, rows: int, room: int) -> None:
        """Let the cache hold so many rows of so many tokens, and keep what is in it."""

    @abstractmethod
    def _copy(self, source: int, targets: slice, length: int) -> None:
        """Give rows of the cache what another one begins with."""

    @abstractmethod
    def _logits(self, ids: np.ndarray, rows: slice, starts: list[int], last: list[int]) -> np.ndarray:
        """Take in ids [rows, n], from one column on, or each row at its own. Returns float32
        [rows, vocabulary], the logits behind the id at ``last`` of each row."""

    @abstractmethod
    def _losses(
        self, ids: np.ndarray, starts: list[int], at: tuple[np.ndarray, np.ndarray], targets: np.ndarray
    ) -> np.ndarray:
        """Take in ids [rows, n], each of all rows from its own column on. Returns float32 [targets], the negative
        log-likelihood of a target behind the id ``at`` (row, place)."""


COLD = 1e-6
"""A temperature below that is none: differences divided by it are infinite in float32."""


class Sampler:
    """The next token of one text: the likeliest, or one drawn by the inverse of the cumulative distribution from the
    likeliest that together have ``top_p``. Its draws come from ``seed`` alone, so that what other texts do changes
    nothing."""

    def __init__(self, temperature: float, seed: int | Sequence[int], top_p: float = 1.0) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._draws = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> int:
        """float32 [vocabulary] -> id."""
        if self._temperature < COLD:
            return int(logits.argmax())
        scaled = (logits - logits.max()) / self._temperature
        weights = np.exp(scaled, dtype=np.float64)
        if self._top_p >= 1:
            return _drawn(weights, self._draws)
        likeliest = _nucleus(weights, self._top_p)
        return int(likeliest[_drawn(weights[likeliest], self._draws)])


def _drawn(weights: np.ndarray, draws: np.random.Generator) -> int:
    sums = weights.cumsum()
    return min(int(np.searchsorted(sums, draws.random() * sums[-1], side="right")), len(weights) - 1)


def _nucleus(weights: np.ndarray, share: float) -> np.ndarray:
    """The fewest places, the heaviest first, that have this share of the weight. To sort all would take longer than
    the model does."""
    count, needed = 64, share * weights.sum()
    while True:
        count = min(count, len(weights))
        heaviest = np.argpartition(weights, len(weights) - count)[len(weights) - count :]
        heaviest = heaviest[np.argsort(-weights[heaviest], kind="stable")]
        sums = weights[heaviest].cumsum()
        if sums[-1] >= needed or count == len(weights):
            return heaviest[: int(np.searchsorted(sums, needed)) + 1]
        count *= 8


class Picker:
    """The next token of each row, each with a `Sampler` of its own from (seed, row)."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature, self._seed = temperature, seed
        self._samplers: dict[int, Sampler] = {}

    def __call__(self, logits: np.ndarray, rows: Sequence[int]) -> list[int]:
        """float32 [rows, vocabulary] -> ids."""
        if self._temperature < COLD:
            return logits.argmax(-1).tolist()
        return [self._sampler(row)(one) for one, row in zip(logits, rows, strict=True)]

    def _sampler(self, row: int) -> Sampler:
        if row not in self._samplers:
            self._samplers[row] = Sampler(self._temperature, [self._seed, row])
        return self._samplers[row]


def write(
    slots: Slots,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    pick: Picker,
    limit: int,
    stop: frozenset[int],
    on_token: Callable[[int, int], None] | None = None,
) -> dict[int, Generation]:
    """At most ``limit`` tokens behind each prompt, up to a stop id, by row."""
    results = {row: Generation() for row in rows}
    if not rows or limit < 1:
        return results
    logits = slots.admit(rows, prompts, limit)
    for left in reversed(range(limit)):
        ended = []
        for row, token in zip(slots.rows, pick(logits, slots.rows), strict=True):
            if token in stop:
                results[row].stopped = True
                ended.append(row)
                continue
            results[row].ids.append(token)
            if on_token:
                on_token(row, token)
        slots.leave(ended)
        if not slots.rows or not left:
            break
        logits = slots.step([results[row].ids[-1] for row in slots.rows])
    return results


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, each with one left behind; 0 where that is not worth reading once."""
    if len(prompts) < 2:
        return 0
    texts = [tuple(prompt) for prompt in prompts]
    first, last = min(texts), max(texts)  # in the order of a dictionary: what these share, all share
    most = min(len(prompt) for prompt in prompts) - 1
    shared = next((i for i in range(most) if first[i] != last[i]), most)
    return shared if shared >= SHARED else 0
