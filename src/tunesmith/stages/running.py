"""A run from its recipe to its last stage."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError, TunesmithError
from tunesmith.export.formats import parse_formats
from tunesmith.progress import Progress
from tunesmith.run import STAGES, RunFolder
from tunesmith.settings import Recipe, make_recipe, read_recipe
from tunesmith.stages import fitting, measuring
from tunesmith.stages.child import BUG
from tunesmith.stages.hosts import Hosts
from tunesmith.stages.outcome import report
from tunesmith.stages.work import Notify, Stopped, Work
from tunesmith.trackers import Feed


def open_run(
    recipe_or_run: Path, run: Path | None = None, overrides: dict[str, Any] | None = None
) -> tuple[RunFolder, Recipe]:
    """The run folder that a recipe file or a run folder means, and the recipe with the overrides.

    A recipe's folder is ``runs/<name>`` here, where the name is the file's, or its folder's when the
    file is called recipe.toml. Raises `RecipeError` or `RunError`.
    """
    if recipe_or_run.is_dir():
        folder = RunFolder(run or recipe_or_run)
        recipe = RunFolder(recipe_or_run).recipe()
        if overrides:
            recipe = make_recipe(recipe.model_dump(mode="json", exclude_none=True), overrides, str(recipe_or_run))
        return folder, recipe
    if not recipe_or_run.exists() and recipe_or_run.suffix != ".toml":
        raise RunError(f"{recipe_or_run} is neither a run nor a recipe; {_runs_near(recipe_or_run)}")
    recipe = read_recipe(recipe_or_run, overrides)
    name = recipe_or_run.resolve().parent.name if recipe_or_run.stem == "recipe" else recipe_or_run.stem
    return RunFolder(run or Path("runs") / name), recipe


def _runs_near(path: Path) -> str:
    """The runs that may have been meant: beside the path, or where runs are as a rule."""
    folders = dict.fromkeys(one for where in (path.parent, Path("runs")) for one in sorted(where.glob("*")))
    runs = [str(one) for one in folders if RunFolder(one).exists]
    if not runs:
        return "there is no run here yet, and `tunesmith init` writes a recipe"
    near = difflib.get_close_matches(str(path), runs, 5, cutoff=0)
    return f"there {'is' if len(runs) == 1 else 'are'} {', '.join(near)}{' and others' if len(runs) > 5 else ''}"


def run(folder: RunFolder, recipe: Recipe, *, stages: tuple[str, ...] = STAGES, fresh: bool = False,
        stop: Callable[[], bool] = lambda: False, notify: Notify = lambda _: None,
        hosts: Hosts | None = None) -> Iterator[Progress]:  # fmt: skip
    """Do the stages that are named, and yield what happens, already recorded in progress.jsonl. Downloads, imports,
    and how far one measurement or one exported file is, are told to ``notify`` alone.

    A training with other settings or rows is never overwritten, unless ``fresh`` says so. The run keeps the recipe,
    but not of an export alone: what somebody wants once is not what the recipe asks of the next run. ``hosts``: where
    the processes are that train, when there are several. Raises any
    `TunesmithError`; what was finished before stays.
    """
    parse_formats(recipe.export.formats)  # a name that is not known is said before hours of training
    if not {"teach", "prepare"} & set(stages) and not folder.exists:  # nor is a folder left behind
        raise RunError(f"{folder} is no run yet; `tunesmith run` does every stage")
    work = Work(folder, recipe if fresh else fitting.as_fitted(folder, recipe), stop, notify, hosts)
    if "evaluate" in stages and folder.stage_inputs("evaluate") is None:
        measuring.refuse_bad_tasks(work)
    with folder.lock(), Feed(folder, work.recipe) as feed:
        work.settle_other_training(fresh, "train" in stages)
        if stages != ("export",):
            folder.save_recipe(work.recipe)
        for stage in stages:
            if stage == "teach" and len(stages) > 1 and not recipe.teacher.is_set:
                continue
            if stage == "export" and not recipe.export.formats:
                continue  # nothing was asked for
            if stage == "evaluate" and len(stages) > 1 and not report(folder)["rows"]["test"]:
                yield folder.record(
                    Progress("note", stage=stage, message=f"nothing is measured: {measuring.NO_TEST_ROWS}")
                )
                continue  # a training must not end in an error for that
            try:
                for progress in work.stage(stage, fresh or (stages == ("export",) and work.hands_over)):
                    yield from feed.follow(progress if progress.time else folder.record(progress))
                    if stage not in ("teach", "train") and stop():
                        return  # these stop by themselves, at a reply or a step; the other stages lose nothing
            except Stopped:
                return
            except Exception as error:  # for whoever looks at the run later; the person is told by what we raise
                said = str(error) if isinstance(error, TunesmithError) else f"{BUG}: {type(error).__name__}: {error}"
                with contextlib.suppress(TunesmithError):
                    folder.record(Progress("failed", stage=stage, message=said))
                raise
            if work.stopped:
                return


def prove(folder: RunFolder, ggufs: list[Path], notify: Notify = lambda _: None) -> Iterator[Progress]:
    """Compare GGUF files with the run's trained model; without any named, those that were exported.

    The proofs are in export/proof.json. Raises `RunError` when there is none to prove.
    """
    exporting = Work(folder, folder.recipe(), lambda: False, notify).exporting()
    ggufs = ggufs or sorted(p for p in folder.export.glob("*.gguf") if not p.name.endswith("-lora.gguf"))
    if not ggufs:
        raise RunError(f"{folder} has no GGUF to prove; `tunesmith export {folder}` writes one")
    with folder.lock():
        for gguf in ggufs:
            for progress in exporting.prove(gguf):
                yield folder.record(progress)
