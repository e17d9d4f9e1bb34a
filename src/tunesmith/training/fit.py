"""Will it fit? What a training takes is estimated from shapes, then one real step on the longest rows is tried.

Both happen in a process of their own: where memory is full the system kills that one, and says so by it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunesmith import machine
from tunesmith.dataset.store import Tokens
from tunesmith.engines.adapter import trained_layers, widths
from tunesmith.engines.base import Batch, LoraShape, StepSettings
from tunesmith.engines.choose import Precision, device_limits, engine_name, open_engine, settled
from tunesmith.engines.needs import Needs, Training, needs
from tunesmith.errors import OutOfMemory
from tunesmith.models.architecture import Architecture
from tunesmith.progress import Progress
from tunesmith.settings import ModelSettings, TrainSettings
from tunesmith.training.loop import validation_steps

LAYERS, TOKENS = (16, 8, 4, 2, 1), (1024, 512, 256)
"""What is proposed where more does not fit."""
FORWARD = 1 / 3
"""Time of a validation's pass against a training step's, a token."""
KEPT = 12
"""Checkpoints that a run keeps at most by default: ten, the start's and the last."""


@dataclass(frozen=True)
class Job:
    """A training to look at. ``rows``: the longest, as many as are computed at once; ``lengths``: tokens of all rows;
    ``passed``: tokens that go through the model in training, and in validation."""

    folder: Path
    arch: Architecture
    engine: Literal["auto", "torch", "mlx"]
    precision: Precision
    shape: LoraShape
    settings: TrainSettings
    rows: list[tuple[np.ndarray, np.ndarray]]
    lengths: np.ndarray
    passed: tuple[int, int]
    place: Path
    """The run's folder: its disk is the one that checkpoints need."""

    @classmethod
    def of(cls, folder: Path, arch: Architecture, model: ModelSettings, shape: LoraShape, settings: TrainSettings,
           train: Tokens, valid: Tokens, place: Path) -> Job:  # fmt: skip
        """The job of training on these rows the model in ``folder``."""
        most = min(settings.micro_batch or settings.batch, len(train))
        longest = np.argsort(train.lengths, kind="stable")[-most:]
        steps = settings.steps or settings.epochs * -(-len(train) // settings.batch)
        passed = (
            int(train.lengths.mean() * steps * min(settings.batch, len(train))),
            int(valid.lengths.sum()) * (1 + steps // validation_steps(settings, steps)),
        )
        return cls(
            folder, arch, model.engine, model.precision, shape, settings, [train[int(i)] for i in longest],
            np.concatenate([train.lengths, valid.lengths]), passed, place,
        )  # fmt: skip

    @property
    def below(self) -> int:
        """Frozen layers whose states are to be kept."""
        return trained_layers(self.arch, self.shape).start if self.settings.prefix == "auto" else 0


@dataclass(frozen=True)
class Trial:
    """What one real step took: bytes at its peak, seconds of a step once everything is warm, and its tokens; seconds
    in which the frozen layers read that many."""

    memory: int
    seconds: float
    filling: float
    tokens: int


@dataclass(frozen=True)
class Fit:
    """What a training takes, and what there is. Sizes in bytes."""

    needs: Needs
    limit: int
    largest_buffer: int | None
    """The machine's limit for one, where it has one."""
    states: int
    checkpoints: int
    disk_free: int
    changes: dict[str, Any]
    """Settings with which it would fit, where it does not; empty where none would."""
    costs: tuple[str, ...] = ()
    """What each of them costs, in words."""
    trial: Trial | None = None
    seconds: float | None = None
    """The whole training, with its validations and the frozen layers."""

    @property
    def lacking(self) -> str:
        """What does not fit, in words; empty when all does."""
        if self.needs.total > self.limit:
            return f"{_gb(self.needs.total)} of memory are needed and {_gb(self.limit)} can be had"
        name, size = self.needs.largest
        if self.largest_buffer is not None and size > self.largest_buffer:
            return f"{name} needs {_gb(size)} in one piece, and this machine gives at most {_gb(self.largest_buffer)}"
        return ""

    @property
    def advice(self) -> str:
        """What to do where it does not fit."""
        if not self.changes:
            return "choose a smaller model"
        taken = ", ".join(f"{name} = {value} ({cost})" for (name, value), cost in
                          zip(self.changes.items(), self.costs, strict=True))  # fmt: skip
        return f"--fit takes {taken}"


def examine(job: Job, stop: Callable[[], bool], stage: str) -> Generator[Progress, None, Fit | None]:
    """Estimate, then try a step if the estimate allows it; None when ``stop()`` ended it.

    A trial that was killed for its memory makes the fit lack what the estimate thought there was.
    """
    fit = estimate(job, machine.read_machine(job.place))
    if fit.lacking:
        return fit
    yield Progress("working", stage=stage, message="trying one real step on the longest rows")
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_attempt, args=(job, sending), daemon=True)
    process.start()
    sending.close()
    try:
        while not receiving.poll(0.2):
            if stop():
                return None
        trial = receiving.recv()
    except EOFError:
        process.join()
        return _killed(job, fit) if process.exitcode == -signal.SIGKILL else fit
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(trial, Trial):
        return replace(fit, trial=trial, seconds=_seconds(job, trial))
    return _killed(job, fit)


def _killed(job: Job, fit: Fit) -> Fit:
    """Memory was full in the trial, whatever the estimate said."""
    limit = min(fit.limit, fit.needs.total - 1)
    return replace(fit, limit=limit, **_proposal(job, limit, fit.largest_buffer))


def estimate(job: Job, now: machine.Machine) -> Fit:
    """What the training takes, from shapes alone."""
    memory, largest = device_limits(engine_name(job.engine))
    limit = min(now.available, memory or now.available)
    found = needs(job.arch, _training(job))
    adapter = (
        4
        * sum(job.shape.rank * sum(widths(job.arch, m)) for m in job.shape.modules)
        * len(trained_layers(job.arch, job.shape))
    )
    states = int(job.lengths.sum()) * job.arch.width * (4 if job.precision == "fp32" else 2) if job.below else 0
    fit = Fit(found, limit, largest, states, KEPT * adapter + 4 * adapter, now.disk_free, {})
    return replace(fit, **_proposal(job, limit, largest)) if fit.lacking else fit


def _training(job: Job) -> Training:
    name = engine_name(job.engine)
    learned = int(sum(learn.sum() for _, learn in job.rows))
    precision, cores = settled(name, job.precision)
    return Training(
        name, precision, job.shape, [len(ids) for ids, _ in job.rows], learned, job.below > 0, cores,
        device_limits(name)[0],
    )  # fmt: skip


def _proposal(job: Job, limit: int, largest: int | None) -> dict[str, Any]:
    """The settings that cost least and fit: fewer rows at once, then fewer layers, then shorter rows."""
    for tokens in (None, *(n for n in TOKENS if n < max(len(ids) for ids, _ in job.rows))):
        layers = len(trained_layers(job.arch, job.shape))
        for top in (None, *(k for k in LAYERS if k < layers)):
            for rows in range(len(job.rows), 0, -1):
                changes = {"train.micro_batch": rows if rows < len(job.rows) else None, "train.layers": top,
                           "data.max_tokens": tokens}  # fmt: skip
                changes = {name: value for name, value in changes.items() if value is not None}
                found = needs(job.arch, _training(_changed(job, rows, top, tokens)))
                if found.total <= limit and (largest is None or found.largest[1] <= largest):
                    return {"changes": changes, "costs": tuple(_cost(job, *change) for change in changes.items())}
    return {"changes": {}, "costs": ()}


def _changed(job: Job, rows: int, top: int | None, tokens: int | None) -> Job:
    settings = job.settings if top is None else job.settings.model_copy(update={"layers": top})
    shape = job.shape if top is None else replace(job.shape, layers=top)
    return replace(job, settings=settings, shape=shape, rows=[(i[:tokens], w[:tokens]) for i, w in job.rows[-rows:]])


def _cost(job: Job, name: str, value: int) -> str:
    if name == "train.micro_batch":
        return "the same result"
    if name == "train.layers":
        return f"only the top {value} of {job.arch.layers} layers learn"
    return f"{int((job.lengths > value).sum()):,} of {len(job.lengths):,} rows are longer and are cut or divided"


def _seconds(job: Job, trial: Trial) -> float:
    """Of the whole training, by the trial's speed; the frozen layers are read once."""
    trained, validated = job.passed
    frozen = trial.filling / trial.tokens * int(job.lengths.sum()) if job.below else 0.0
    return frozen + trial.seconds / trial.tokens * (trained + FORWARD * validated)


def _attempt(job: Job, answer: Connection) -> None:
    """Two steps in a process of its own: the first pays for what is only done once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asked decides what Ctrl-C means
    try:
        answer.send(_tried(job))
    except OutOfMemory as error:
        answer.send(str(error))


def _tried(job: Job) -> Trial:
    engine = open_engine(job.folder, job.arch, job.engine, job.precision, job.below)
    engine.add_adapter(job.shape, job.settings.seed)
    began = time.monotonic()
    states = engine.prefix([ids for ids, _ in job.rows]) if job.below else None
    filling = time.monotonic() - began
    batch = Batch.of(job.rows, states)
    for step in (1, 2):
        began = time.monotonic()
        engine.step([batch], StepSettings(step, 1e-9))
    return Trial(engine.memory(), time.monotonic() - began, filling, batch.tokens)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
