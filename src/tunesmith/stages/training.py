"""The stage that trains: in this process, or in several that the engine's own launcher starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tunesmith import files
from tunesmith.errors import RanksLost, RunError, TrainingError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe
from tunesmith.stages import fitting, launch
from tunesmith.stages.hosts import Hosts

if TYPE_CHECKING:
    from tunesmith.stages.work import Work


def train(work: Work) -> Iterator[Progress]:
    """The whole stage, but for what is common to all stages."""
    work.need("prepare", "prepared")
    yield from fitting.settle(work)
    if work.stopped:
        return
    work.folder.update_manifest(training=work.inputs("train"))
    if work.hosts is None:
        yield from learn(work, work.inputs("train"))
    else:
        work.stopped = not (yield from launch.carry_out(work.hosts, work.folder, work.recipe.model, work.stop))


def take_part(folder: RunFolder, recipe: Recipe, hosts: Hosts, stop: Callable[[], bool]) -> Iterator[Progress]:
    """Train on a host that is not the first of them, which has the terminal and writes. Raises `RunError` when the
    run is not here."""
    if not folder.exists:
        raise RunError(f"{folder} is not on this host; copy it from {hosts.names[0]} once it is prepared there")
    folder.save_recipe(fitting.as_fitted(folder, recipe))
    yield Progress("stage", stage="train")
    what = f"{hosts.processes} of the processes train here; {hosts.names[0]} says how far they are"
    yield Progress("note", stage="train", message=what)
    yield from launch.carry_out(hosts, folder, recipe.model, stop)


def learn(work: Work, inputs: str) -> Iterator[Progress]:
    """Train in this process, which may be one of several ranks: then the first one writes. ``inputs``: the hash of
    what the training depends on."""
    from tunesmith.dataset.prepare import tokens
    from tunesmith.training.checkpoints import Checkpoints, adapter_config
    from tunesmith.training.guard import Guard
    from tunesmith.training.loop import Loop, Rows, passes

    first = work.ranks.rank == 0
    checkpoints = Checkpoints(work.folder.checkpoints, inputs)
    train, valid = tokens(work.folder.dataset, "train"), tokens(work.folder.dataset, "valid")
    engine, prefix = yield from work.prefixed("train", lambda: passes(train, valid, work.recipe.train))
    if work.stopped:
        return
    config = adapter_config(work.shape, work.arch.layers, work.recipe.model.name)
    guard = Guard(work.folder.path) if first else None
    loop = Loop(engine, Rows(train, valid, prefix), work.recipe.train, checkpoints, config, work.stop, guard)
    try:
        yield from loop.run()
    except TrainingError:
        if first and loop.state.best_step:
            checkpoints.publish(loop.state.best_step, work.folder.adapter)
        elif not first:  # all of them judge the same loss; whoever ends ends all, and the first has to write before
            with contextlib.suppress(RanksLost):
                work.ranks.leave()
        raise
    work.stopped = not loop.finished
    if loop.finished and first:
        checkpoints.publish(loop.state.best_step, work.folder.adapter)
        work.folder.update_manifest(
            adapter={
                "step": loop.state.best_step,
                "sha256": files.file_hash(work.folder.adapter / "adapter_model.safetensors"),
            }
        )
