"""Will it fit? What a training takes is estimated from shapes, then one real step on the longest rows is tried.

The step is taken in a process of its own: where memory is full the system ends that one, and says so by it.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from tunesmith import machine
from tunesmith.dataset.store import Tokens
from tunesmith.engines.adapter import elements, trained_layers
from tunesmith.engines.base import Batch, LoraShape, StepSettings
from tunesmith.engines.choose import Precision, device_limits, engine_name, memory_limits, open_engine, settled
from tunesmith.engines.needs import MOST_TOKENS, Needs, Training, needs
from tunesmith.errors import OutOfMemory
from tunesmith.models.architecture import Architecture
from tunesmith.progress import Progress
from tunesmith.settings import ModelSettings, TrainSettings
from tunesmith.training.loop import total_steps, traffic, validation_steps
from tunesmith.training.prefix import PAYS, SPARE

Result = TypeVar("Result")
LAYERS, TOKENS = (16, 8, 4, 2, 1), (1024, 512, 256)
"""What is proposed where more does not fit."""
LONG = 5.0
"""Seconds after which nothing is tried a second time."""
SHARED = 0.6
"""A step that gets less than that of its cores' time shares them with other programs; alone it gets 0.8 and more."""
FORWARD = 1 / 3
"""Time of a validation's pass against a training step's, a token."""


@dataclass(frozen=True)
class Job:
    """A training to look at. ``rows``: the longest, as many as are computed at once; ``lengths``: tokens of all rows;
    ``passed``: tokens that go through the model in training, and in validation; ``below``: frozen layers whose states
    are kept; ``checkpoints``: how many are."""

    folder: Path
    arch: Architecture
    engine: Literal["auto", "torch", "mlx"]
    precision: Precision
    shape: LoraShape
    settings: TrainSettings
    rows: list[tuple[np.ndarray, np.ndarray]]
    lengths: np.ndarray
    passed: tuple[float, float]
    below: int
    checkpoints: int
    place: Path
    """The run's folder: its disk is the one that checkpoints need."""
    processes: int = 1
    """That train on this machine, each with a copy of the model and its share of a batch."""

    @classmethod
    def of(cls, folder: Path, arch: Architecture, model: ModelSettings, shape: LoraShape, settings: TrainSettings,
           train: Tokens, valid: Tokens, place: Path, processes: int = 1) -> Job:  # fmt: skip
        """The job of training on these rows the model in ``folder``."""
        most = min(settings.micro_batch or settings.batch, math.ceil(settings.batch / processes), len(train))
        longest = np.argsort(train.lengths, kind="stable")[-most:]
        steps = total_steps(len(train), settings)
        passed = traffic(train, valid, settings)
        lengths = np.concatenate([train.lengths, valid.lengths])
        pays = settings.prefix == "auto" and sum(passed) >= PAYS * lengths.sum()
        return cls(
            folder, arch, model.engine, model.precision, shape, settings, [train[int(i)] for i in longest], lengths,
            passed, trained_layers(arch, shape).start if pays else 0, steps // validation_steps(settings, steps) + 2,
            place, processes,
        )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What one real step took: bytes at its peak, seconds of a step once everything is warm, and its tokens; seconds
    in which the frozen layers read that many."""

    memory: int
    seconds: float
    filling: float
    tokens: int
    share: float = 1.0
    """Of the time of the cores that compute the step, what it got: other programs had the rest."""


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
    def shared(self) -> bool:
        """Whether other programs took so much of the machine that the time says little."""
        return self.trial is not None and self.trial.share < SHARED

    @property
    def lacking(self) -> str:
        """What does not fit, in words; empty when all does."""
        if self.needs.total > self.limit:
            return f"{_gb(self.needs.total)} of memory are needed and {_gb(self.limit)} can be had"
        if self.trial and self.trial.memory > self.limit:
            return f"one step took {_gb(self.trial.memory)} of memory and {_gb(self.limit)} can be had"
        if self.checkpoints > self.disk_free:
            return f"checkpoints need {_gb(self.checkpoints)} of the disk, of which {_gb(self.disk_free)} are free"
        name, size = self.needs.largest
        if self.largest_buffer is not None and size > self.largest_buffer:
            return f"{name} needs {_gb(size)} in one piece, and this machine gives at most {_gb(self.largest_buffer)}"
        return ""

    @property
    def advice(self) -> str:
        """What to do where it does not fit."""
        if not self.changes:
            return "free some" if self.checkpoints > self.disk_free else "choose a smaller model"
        taken = ", ".join(f"{name} = {value} ({cost})" for (name, value), cost in
                          zip(self.changes.items(), self.costs, strict=True))  # fmt: skip
        return f"`tunesmith run --fit` takes {taken}"


def examine(job: Job, stop: Callable[[], bool], stage: str) -> Generator[Progress, None, Fit | None]:
    """Estimate, then try a step if the estimate allows it; None when ``stop()`` ended it.

    A trial that the system ended makes the fit lack what the estimate thought there was.
    """
    now = machine.read_machine(job.place)
    if job.below and _states(job) + SPARE > now.disk_free:
        job = replace(job, below=0)
    fit = estimate(job, now)
    if fit.lacking:
        return fit
    yield Progress("working", stage=stage, message="trying one real step on the longest rows")
    process, answer = _started(job)
    try:
        while not answer.poll(0.2):
            if stop():
                return None
        trial = answer.recv()
    except EOFError:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:  # by the system: the CPU's memory, or the GPU's
            return _too_much(job, fit)
        yield Progress("note", stage=stage, message="a real step could not be tried, so memory is only estimated")
        return fit
    finally:
        process.kill()
        process.join()
        answer.close()
    if not isinstance(trial, Trial):
        return _too_much(job, fit)
    fit = replace(fit, trial=trial, seconds=float(f"{_seconds(job, trial):.2g}"))  # one step tells no more
    return replace(fit, **_proposal(job, fit.limit, fit.largest_buffer)) if fit.lacking else fit


def _started(job: Job) -> tuple[BaseProcess, Connection]:
    """The process that tries, and where it answers."""
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_attempt, args=(job, sending), daemon=True)
    resource_tracker.ensure_running()  # or it would be started with Ctrl-C blocked for good
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what it means is decided here alone
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    sending.close()
    return process, receiving


def _too_much(job: Job, fit: Fit) -> Fit:
    """Memory was full in the trial, whatever the estimate said."""
    limit = min(fit.limit, fit.needs.total - 1)
    return replace(fit, limit=limit, **_proposal(job, limit, fit.largest_buffer))


def estimate(job: Job, now: machine.Machine) -> Fit:
    """What the training takes, from shapes alone."""
    name = engine_name(job.engine)
    limit, largest = memory_limits(name, now.available, job.processes)
    checkpoints = 4 * elements(job.arch, job.shape) * (job.checkpoints + 4)  # the last two with both moments
    fit = Fit(needs(job.arch, _training(job)), limit, largest, _states(job), checkpoints, now.disk_free, {})
    return replace(fit, **_proposal(job, limit, largest)) if fit.lacking else fit


def _states(job: Job) -> int:
    """Bytes of the states of frozen layers on disk."""
    size = 2 if settled(engine_name(job.engine), job.precision)[0] == "bf16" else 4
    return int(job.lengths.sum()) * job.arch.width * size if job.below else 0


def _training(job: Job) -> Training:
    name = engine_name(job.engine)
    precision, cores = settled(name, job.precision)
    return Training(
        name, precision, job.shape, [len(ids) for ids, _ in job.rows], int(sum(learn.sum() for _, learn in job.rows)),
        job.below > 0, cores, device_limits(name)[0],
    )  # fmt: skip


def _proposal(job: Job, limit: int, largest: int | None) -> dict[str, Any]:
    """The settings that cost least and fit: fewer rows at once, then fewer layers, then shorter rows."""
    whole = _training(job)
    for tokens in (None, *(n for n in TOKENS if n < max(whole.lengths))):
        for top in (None, *(k for k in LAYERS if k < len(trained_layers(job.arch, job.shape)))):
            rows = len(job.rows)
            while rows:
                given = {"train.micro_batch": rows if rows < len(job.rows) else None, "train.layers": top,
                         "data.max_tokens": tokens}  # fmt: skip
                changes = {name: value for name, value in given.items() if value is not None}
                found = needs(job.arch, _smaller(job, whole, rows, top, tokens))
                if found.total <= limit and (largest is None or found.largest[1] <= largest):
                    return {"changes": changes, "costs": tuple(_cost(job, *change) for change in changes.items())}
                rows //= 2
    return {"changes": {}, "costs": ()}


def _smaller(job: Job, whole: Training, rows: int, top: int | None, tokens: int | None) -> Training:
    shape = job.shape if top is None else replace(job.shape, layers=top)
    streamed = whole.streamed or (top is not None and job.settings.prefix == "auto" and job.settings.epochs > 1)
    learned = int(sum(learn[:tokens].sum() for _, learn in job.rows[-rows:]))
    lengths = [min(length, tokens or length) for length in whole.lengths[-rows:]]
    return replace(whole, shape=shape, lengths=lengths, learned=learned, streamed=streamed)


def _cost(job: Job, name: str, value: int) -> str:
    if name == "train.micro_batch":
        return "the same result"
    if name == "train.layers":
        return f"only the top {value} of {job.arch.layers} layers learn"
    return f"{int((job.lengths > value).sum()):,} of {len(job.lengths):,} rows are longer and are cut or divided"


def _seconds(job: Job, trial: Trial) -> float:
    """Of the whole training, by the trial's speed; the frozen layers are read once."""
    trained, validated = job.passed
    once = min(int(job.lengths.sum()), trained + validated)
    frozen = trial.filling / trial.tokens * once if job.below else 0.0
    return frozen + trial.seconds / trial.tokens * (trained + FORWARD * validated)


def _attempt(job: Job, answer: Connection) -> None:
    """In the process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer.send(_tried(job))
    except OutOfMemory as error:
        answer.send(str(error))


def _tried(job: Job) -> Trial:
    engine = open_engine(job.folder, job.arch, job.engine, job.precision, job.below)
    engine.add_adapter(job.shape, job.settings.seed)
    rows, states, filling = _enough(job), None, 0.0
    if job.below:
        states, filling = _timed(lambda: engine.prefix([ids for ids, _ in rows]))
    batch = Batch.of(rows, states)
    began, used = time.monotonic(), time.process_time()
    _, took = _timed(lambda: engine.step([batch], StepSettings(1, 1e-9)))
    cores = settled(engine_name(job.engine), job.precision)[1]
    had = (time.process_time() - used) / (time.monotonic() - began) / cores if cores > 1 else 1.0
    return Trial(engine.memory(), took, filling, batch.tokens, had)


def _timed(do: Callable[[], Result]) -> tuple[Result, float]:
    """What it gives and the seconds it takes, of a second time: the first pays for what is only done once. Unless that
    took so long that it hardly counts."""
    began = time.monotonic()
    result = do()
    first = time.monotonic() - began
    if first > LONG:
        return result, first
    began = time.monotonic()
    result = do()
    return result, time.monotonic() - began


def _enough(job: Job) -> list[tuple[np.ndarray, np.ndarray]]:
    """The longest rows, as many as fill all cores, which take no more at once; a graphics processor takes all."""
    cores = settled(engine_name(job.engine), job.precision)[1]
    most = cores * max(MOST_TOKENS, len(job.rows[-1][0])) if cores > 1 else sum(len(ids) for ids, _ in job.rows)
    taken, tokens = list[tuple[np.ndarray, np.ndarray]](), 0
    for row in reversed(job.rows):
        if tokens >= most:
            break
        taken.append(row)
        tokens += len(row[0])
    return taken


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
