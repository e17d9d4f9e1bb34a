"""The training loop, written once for every engine. It yields what happened; it prints nothing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.dataset.store import Tokens
from tunesmith.engines.base import Batch, Engine, StepSettings, iterate_by_length
from tunesmith.engines.ranks import agreed
from tunesmith.errors import TrainingError
from tunesmith.progress import Progress
from tunesmith.settings import TrainSettings
from tunesmith.training.checkpoints import Checkpoints, State
from tunesmith.training.guard import Guard
from tunesmith.training.order import Order, divide
from tunesmith.training.prefix import Prefix
from tunesmith.training.schedule import learning_rate

SMOOTH = 0.95
"""Weight of the past in the smoothed loss that divergence is judged by."""


@dataclass(frozen=True)
class Rows:
    """What is trained on, and what the best checkpoint is chosen with."""

    train: Tokens
    valid: Tokens
    prefix: Prefix | None = None
    """What is known of the layers below the trained ones, for all of these rows."""


def passes(train: Tokens, valid: Tokens, settings: TrainSettings) -> tuple[list[np.ndarray], float]:
    """Token ids of every row that a training uses, and how often it goes through the model on average."""
    order = Order(len(train), settings.batch, settings.seed)
    steps = total_steps(len(train), settings)
    few = steps < order.steps_per_epoch
    used = sorted({row for step in range(1, steps + 1) for row in order.rows(step)}) if few else range(len(train))
    rows = [train[row][0] for row in used] + [valid[row][0] for row in range(len(valid))]
    trained, validated = traffic(train, valid, settings)
    trained = float(sum(train.lengths[used])) if few else trained
    return rows, (trained + validated) / max(1, sum(map(len, rows)))


def traffic(train: Tokens, valid: Tokens, settings: TrainSettings) -> tuple[float, float]:
    """Tokens that go through the model in training, and in validation."""
    steps = total_steps(len(train), settings)
    epochs = steps / math.ceil(len(train) / settings.batch)
    validations = 1 + steps // validation_steps(settings, steps)
    return float(train.lengths.sum()) * epochs, float(valid.lengths.sum()) * validations


def total_steps(rows: int, settings: TrainSettings) -> int:
    """Optimizer steps of a whole training."""
    return settings.steps or settings.epochs * math.ceil(rows / settings.batch)


def validation_steps(settings: TrainSettings, steps: int) -> int:
    """Steps between two validations."""
    return settings.validate_every or max(1, math.ceil(steps / 10))


class Loop:
    """One training, from its last checkpoint to its end. The engine already carries the adapter.

    Where the engine is one of several ranks, all of them go through the same steps, each with its share of the rows;
    the first one writes, and the others read nothing from disk but rows.
    """

    def __init__(self, engine: Engine, rows: Rows, settings: TrainSettings, checkpoints: Checkpoints,
                 config: dict[str, Any], stop: Callable[[], bool] = lambda: False,
                 guard: Guard | None = None) -> None:  # fmt: skip
        self.engine, self.rows, self.settings = engine, rows, settings
        self.checkpoints, self.config, self.stop, self.guard = checkpoints, config, stop, guard
        self.ranks = engine.ranks
        self.order = Order(len(rows.train), settings.batch, settings.seed)
        self.steps = total_steps(len(rows.train), settings)
        self.every = validation_steps(settings, self.steps)
        self.state = State()
        self.finished = False
        self._saved = 0

    def run(self) -> Iterator[Progress]:
        """Train to the end, or until ``stop()``; then ``self.finished`` is False and a checkpoint stands.

        Raises `TrainingError` when the loss is no number or grows without bound.
        """
        self._resume()
        yield self._progress("start", message=self._greeting())
        if self.state.step == 0 and len(self.rows.valid):
            yield self._progress("working", message="validating")
            yield self._progress("validation", loss=self._validate())
        pace, saved = _Pace(self.steps), time.monotonic()
        while self.state.step < self.steps and not self._exhausted():
            if agreed(self.ranks, self.stop()):
                yield from self._save(milestone=False)
                return
            yield self._step(pace)
            due = self.state.step % self.every == 0 or self.state.step == self.steps
            if due or time.monotonic() - saved > 60 * self.settings.save_minutes:
                began = time.monotonic()
                yield from self._milestone() if due else self._save(milestone=False)
                saved = time.monotonic()
                pace.paused(saved - began)
            yield from self._guarded()  # behind a milestone that is due here, which it must not save in its place
        self.finished = True

    def _resume(self) -> None:
        state = self.checkpoints.resume(self.engine)
        if state is not None:
            self.state, self._saved = state, state.step

    def _greeting(self) -> str:
        return f"continued after step {self.state.step}" if self.state.step else ""

    def _exhausted(self) -> bool:
        return self.settings.patience is not None and self.state.since_best >= self.settings.patience

    # -- a step ----------------------------------------------------------------------------------

    def _step(self, pace: _Pace) -> Progress:
        s, step = self.settings, self.state.step + 1
        rate = learning_rate(step, self.steps, s.learning_rate, s.warmup, s.schedule)
        rows = self.order.rows(step)
        mine = rows if self.ranks.size == 1 else divide(rows, self.rows.train.lengths, self.ranks.size)[self.ranks.rank]
        micro = s.micro_batch or len(rows)
        batches = [
            make_batch(self.rows.train, mine[i : i + micro], self.rows.prefix) for i in range(0, len(mine), micro)
        ]
        began = time.monotonic()
        result = self.engine.step(batches, StepSettings(step, rate, s.weight_decay, s.clip or None, s.seed))
        tokens = int(self.rows.train.lengths[rows].sum())
        pace.took(time.monotonic() - began, tokens)
        self._judge(step, result.loss, result.gradient_norm)
        self.state.step = step
        return self._progress(
            "step", loss=result.loss, learning_rate=rate, gradient_norm=result.gradient_norm, tokens=tokens,
            tokens_per_second=pace.tokens_per_second, memory=self.engine.memory(),
            seconds_left=pace.left(self.steps - step), epoch=step / self.order.steps_per_epoch,
        )  # fmt: skip

    def _judge(self, step: int, loss: float, norm: float) -> None:
        """Stop on a loss that is no number, or that rises far above where it started and stays there."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = "the loss" if not math.isfinite(loss) else "the gradient"
            raise TrainingError(
                f"{what} became {loss if what == 'the loss' else norm} at step {step}; {self._advice()}"
            )
        state = self.state
        past = state.smooth_loss
        state.smooth_loss = loss if past is None else SMOOTH * past + (1 - SMOOTH) * loss
        state.lowest_smooth = min(state.smooth_loss, state.lowest_smooth or math.inf)
        if step > 20 and state.smooth_loss > 2 * state.lowest_smooth + 1:
            raise TrainingError(
                f"the loss diverges: {state.smooth_loss:.2f} at step {step}, "
                f"it was {state.lowest_smooth:.2f}; {self._advice()}"
            )

    def _guarded(self) -> Iterator[Progress]:
        """Say what gets scarce; before it is gone, save and wait until there is some again.

        Raises `TrainingError` when that takes too long: what this run itself holds is free then.
        """
        if self.guard is None:
            return
        findings = self.guard.look()
        for finding in findings:
            yield self._progress("note", message=finding.message)
        if any(finding.pause for finding in findings):
            yield from self._save(milestone=False)
            yield from self._pause(self.guard)

    def _pause(self, guard: Guard) -> Iterator[Progress]:
        for what in guard.waiting():
            if self.stop():
                return
            yield self._progress("working", message=f"paused, and saved: {what}")
        if lacking := guard.lacking():
            raise TrainingError(
                f"stopped after step {self.state.step}, with everything saved: {lacking}, then start the same command "
                "again; it continues there"
            )
        yield self._progress("note", message="it goes on")

    def _advice(self) -> str:
        kept = f"the adapter of step {self.state.best_step} is kept; " if self.state.best_step else ""
        return f"{kept}try a train.learning_rate below {self.settings.learning_rate:g}, or a longer train.warmup"

    # -- validation and checkpoints --------------------------------------------------------------

    def _milestone(self) -> Iterator[Progress]:
        state = self.state
        if len(self.rows.valid):
            yield self._progress("working", message="validating")
            loss = self._validate()
            state.losses[state.step] = loss
            better = state.best_loss is None or loss < state.best_loss
            state.since_best = 0 if better else state.since_best + 1
            if better:
                state.best_loss, state.best_step = loss, state.step
            yield self._progress("validation", loss=loss, best=better)
        else:
            state.best_step = state.step
        yield from self._save(milestone=True)

    def _validate(self) -> float:
        batch = self.settings.micro_batch or self.settings.batch
        loss = mean_loss(self.engine, self.rows.valid, batch, prefix=self.rows.prefix)
        if not math.isfinite(loss):
            raise TrainingError(f"the validation loss became {loss} at step {self.state.step}; {self._advice()}")
        return loss

    def _save(self, *, milestone: bool) -> Iterator[Progress]:
        if self.state.step == self._saved:
            return
        self.state.milestone = milestone
        self._saved = self.state.step
        if self.ranks.rank == 0:
            path = self.checkpoints.save(self.engine, self.state, self.config)
            yield self._progress("checkpoint", message=path.name)

    def _progress(self, event: Any, **values: Any) -> Progress:
        return Progress(event, stage="train", step=self.state.step, steps=self.steps, **values)


class _Pace:
    """Speed over the last steps, and what it means for the time left."""

    def __init__(self, steps: int) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        self._pauses, self._taken = 0.0, 0

    def took(self, seconds: float, tokens: int) -> None:
        self._recent.append((seconds, tokens))
        self._taken += 1

    def paused(self, seconds: float) -> None:
        self._pauses += seconds

    @property
    def tokens_per_second(self) -> float:
        return sum(t for _, t in self._recent) / max(1e-9, sum(s for s, _ in self._recent))

    def left(self, steps: int) -> float:
        """Seconds for so many more steps, with validations and checkpoints as often as so far."""
        step = sum(s for s, _ in self._recent) / len(self._recent)
        return steps * (step + self._pauses / self._taken)


def make_batch(tokens: Tokens, rows: Iterable[int], prefix: Prefix | None = None) -> Batch:
    """These rows padded to one length, with their states where all are known."""
    taken = [tokens[row] for row in rows]
    states = [prefix.of(ids) for ids, _ in taken] if prefix else []
    known = [row for row in states if row is not None]
    return Batch.of(taken, known if len(known) == len(taken) else None)


def mean_loss(engine: Engine, rows: Tokens, batch: int, *, prefix: Prefix | None = None) -> float:
    """Negative log-likelihood per learned token, in nats; of several ranks each measures its share of the rows."""
    ranks = engine.ranks
    share = None
    if ranks.size > 1:  # longest first, in turn: as many rows and about as many tokens for each
        share = sorted(range(len(rows)), key=lambda row: (-rows.lengths[row], row))[ranks.rank :: ranks.size]
    losses, counts = row_losses(engine, rows, batch, prefix=prefix, share=share)
    loss, count = ranks.sum([np.array([losses.sum(), counts.sum()], np.float64)])[0]
    return float(loss / count)


def row_losses(engine: Engine, rows: Tokens, batch: int, *, adapter: bool = True, prefix: Prefix | None = None,
               share: list[int] | None = None,
               on_rows: Callable[[int], None] = lambda _: None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Summed negative log-likelihood (float64 [rows], nats) and learned tokens (int64 [rows]) of each, or of a
    ``share`` of them, where the others stay zero; ``on_rows`` is told how many rows are done."""
    losses, counts, done = np.zeros(len(rows)), np.zeros(len(rows), np.int64), 0
    taken = np.arange(len(rows)) if share is None else np.array(share, int)
    for places in iterate_by_length(rows.lengths[taken], batch):
        part = taken[places]
        losses[part], counts[part] = engine.losses(make_batch(rows, part, prefix), adapter=adapter)
        done += len(part)
        on_rows(done)
    return losses, counts
