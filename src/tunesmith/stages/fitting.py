"""Whether a training fits, and the settings that it takes where it does not."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import files
from tunesmith.errors import OutOfMemory
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe, make_recipe

if TYPE_CHECKING:
    from tunesmith.stages.work import Work


def settle(work: Work) -> Iterator[Progress]:
    """See whether the training fits, and change the recipe so that it does where that is asked for.

    Raises `OutOfMemory` when it does not fit.
    """
    if work.recipe.train.fit == "off":
        return
    fit = yield from examine(work, work.folder.dataset)
    if fit is None:
        work.stopped = work.stop()
    elif fit.lacking and work.folder.manifest().get("training"):
        raise OutOfMemory(
            f"this training, which was begun, does not fit any more: {fit.lacking}; close other programs, or give "
            "--train.fit off to go on all the same"
        )
    elif fit.lacking and fit.changes and work.recipe.train.fit == "take":
        yield Progress("note", stage="train", message=f"{fit.lacking}: {fit.advice}")
        known = work.folder.manifest().get("fitted") or {"asked": asked(work.recipe), "changes": {}}
        changes = {**known["changes"], **fit.changes}
        work.folder.update_manifest(fitted={**known, "changes": changes})
        work.recipe = changed(work.recipe, changes)
        work.folder.save_recipe(work.recipe)
        if not work.folder.finished("prepare", work.inputs("prepare")):
            yield from work.stage("prepare", False)
            yield Progress("stage", stage="train")
        yield from settle(work)
    elif fit.lacking:
        raise OutOfMemory(f"this training does not fit: {fit.lacking}; {fit.advice}; --train.fit off does not look")


def examine(work: Work, dataset: Path) -> Generator[Progress, None, Any]:
    """What the training on these rows takes; None when it was stopped meanwhile, or there are none."""
    from tunesmith.training.fit import examine

    job = job_of(work, dataset)
    if job is None:
        return None
    fit = yield from examine(job, work.stop, "train")
    if fit and fit.trial:
        yield Progress("fits", stage="train", memory=fit.trial.memory, total=fit.limit, seconds_left=fit.seconds)
    return fit


def job_of(work: Work, dataset: Path) -> Any:
    """The training on these rows, as `training.fit` looks at it; None when there are none."""
    from tunesmith.dataset.prepare import tokens
    from tunesmith.training.fit import Job

    train, valid = tokens(dataset, "train"), tokens(dataset, "valid")
    if not len(train):
        return None
    recipe, place = work.recipe, work.folder.path
    processes = work.hosts.processes if work.hosts else 1
    return Job.of(work.model.folder, work.arch, recipe.model, work.shape, recipe.train, train, valid, place, processes)


def as_fitted(folder: RunFolder, recipe: Recipe) -> Recipe:
    """The recipe with the changes that an earlier start of the same training took so that it fits."""
    known = folder.manifest().get("fitted")
    if recipe.train.fit == "off" or not known or known["asked"] != asked(recipe):
        return recipe
    return changed(recipe, known["changes"])


def asked(recipe: Recipe) -> str:
    """Hash of what a person asks of a training, whatever became of it."""
    train = recipe.train.model_dump(mode="json", exclude={"fit", "save_minutes", "prefix", "trackers"})
    return files.value_hash([recipe.model.model_dump(mode="json"), recipe.data.model_dump(mode="json"), train])


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    return make_recipe(recipe.model_dump(mode="json", exclude_none=True), changes)
