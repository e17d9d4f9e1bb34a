"""A sweep: one recipe with several values of some settings, a run of its own for every combination of them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith import files, machine
from tunesmith.errors import OutOfMemory, RecipeError, RunError, TunesmithError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe
from tunesmith.stages import comparing, fitting
from tunesmith.stages.child import INTERRUPTED, Child
from tunesmith.stages.grid import Grid, short_names, show
from tunesmith.stages.outcome import report
from tunesmith.stages.running import open_run, run
from tunesmith.stages.work import Notify, Work

LOOK = 0.25
"""Seconds between two looks at the processes."""
BUSY = "another tunesmith works in it"
State = Literal["waiting", "running", "done", "unchanged", "failed", "stopped"]


@dataclass
class Member:
    """One combination, and how far its run is; ``values`` are those of the settings that vary."""

    name: str
    values: dict[str, Any]
    work: Work
    state: State = "waiting"
    error: str = ""
    stage: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    """Of the newest step."""
    valid_loss: float | None = None
    """The lowest so far."""
    seconds_left: float | None = None
    """Of the training."""

    @property
    def folder(self) -> RunFolder:
        return self.work.folder

    def take(self, event: Progress) -> None:
        """Bring it up to date with one event of its run."""
        self.stage = event.stage or self.stage
        if event.stage != "train":
            self.seconds_left = None
            return
        self.step, self.steps = event.step or self.step, event.steps or self.steps
        if event.event == "step":
            self.loss, self.seconds_left = event.loss, event.seconds_left
        elif event.event == "validation" and event.best:
            self.valid_loss = event.loss


@dataclass
class Sweep:
    """The runs of a sweep below ``path``. First `prepare`, then `carry_out`, then `compare`."""

    path: Path
    grid: Grid
    members: list[Member]
    _prepared: dict[str, dict[str, RunFolder]] = field(default_factory=lambda: {"teach": {}, "prepare": {}})
    """By stage and hash of its inputs, a run that has finished it."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep another start of the same sweep away. Raises `RunError` when there is one."""
        return RunFolder(self.path).lock()

    # -- what all runs share ---------------------------------------------------------------------

    def prepare(self, stop: Callable[[], bool], notify: Notify) -> Iterator[Progress]:
        """Give every run its recipe and its rows, taught and prepared once for all runs that ask for the same.

        Rows that cannot be prepared fail the runs that ask for them; raises what is wrong with them when those are all.
        Raises `RunError` when a folder holds a training with other settings.
        """
        for member in self.members:
            member.work.stop, member.work.notify = stop, notify
            member.work.recipe = fitting.as_fitted(member.folder, member.work.recipe)
        self._refuse_others()
        self._find_prepared()
        wanted = [member.work.inputs("prepare") for member in self.members]
        failed: dict[str, str] = {}
        for member, inputs in zip(self.members, wanted, strict=True):
            if inputs in failed:
                member.state, member.error = "failed", failed[inputs]
                continue
            try:
                yield from self._prepare(member.work)
            except TunesmithError as error:
                if len(set(wanted)) == 1:
                    raise
                member.state, member.error = "failed", str(error)
                failed[inputs] = str(error)
            if stop():
                return
            if not member.error and _is_done(member.work):
                member.state = "unchanged"

    def _refuse_others(self) -> None:
        for member in self.members:
            begun = member.folder.manifest().get("training")
            if begun and begun != member.work.inputs("train"):
                raise RunError(
                    f"{member.folder} holds a training with other settings or rows; give --run FOLDER to begin a sweep "
                    "beside it"
                )

    def _find_prepared(self) -> None:
        for stage, known in self._prepared.items():
            for member in self.members:
                inputs = member.folder.stage_inputs(stage)
                if inputs and _place(stage, member.folder).exists():
                    known.setdefault(inputs, member.folder)

    def _prepare(self, work: Work) -> Iterator[Progress]:
        """This run's recipe and rows, if they are not there yet."""
        if work.recipe.teacher.is_set:
            self._take_over("teach", work)
        self._take_over("prepare", work)
        if not work.folder.finished("prepare", work.inputs("prepare")):
            yield from run(work.folder, work.recipe, stages=("teach", "prepare"), stop=work.stop, notify=work.notify)
            for stage, known in self._prepared.items():
                if inputs := work.folder.stage_inputs(stage):
                    known.setdefault(inputs, work.folder)
        elif work.folder.recipe() != work.recipe:  # what is measured may change from one start to the next
            with work.folder.lock():
                work.folder.save_recipe(work.recipe)

    def _take_over(self, stage: Literal["teach", "prepare"], work: Work) -> None:
        """Have what another run has made of the same, if one has."""
        folder, inputs = work.folder, work.inputs(stage)
        source = self._prepared[stage].get(inputs)
        if source is None or folder.finished(stage, inputs):
            return
        with folder.lock():
            folder.save_recipe(work.recipe)
            folder.begin(stage)
            with files.atomic_folder(_place(stage, folder)) as target:
                # A journal grows in its place: it must not be the same file. A dataset is only ever replaced.
                copy = shutil.copyfile if stage == "teach" else _link
                shutil.copytree(_place(stage, source), target, copy_function=copy, dirs_exist_ok=True)
            if model := source.manifest().get("model"):
                folder.update_manifest(model=model)
            folder.finish(stage, inputs)
            folder.record(Progress("note", stage=stage, message=f"the same as in {source}"))

    # -- the runs --------------------------------------------------------------------------------

    def refuse_too_many(self, parallel: int) -> None:
        """Raises `OutOfMemory` when so many trainings at once need more than there is, by `training.fit`'s estimate of
        those that need most. One alone is judged by its own run."""
        waiting = [m.work for m in self.members if m.state == "waiting" and m.work.recipe.train.fit != "off"]
        if parallel == 1 or not waiting:
            return
        from tunesmith.training.fit import estimate

        now = machine.read_machine(self.path)
        fits = [estimate(job, now) for work in waiting if (job := fitting.job_of(work, work.folder.dataset))]
        needs = sorted((fit.needs.total for fit in fits), reverse=True)[:parallel]
        limit = min((fit.limit for fit in fits), default=0)
        if sum(needs) > limit:
            room = next((n for n in range(len(needs) - 1, 1, -1) if sum(needs[:n]) <= limit), 1)
            raise OutOfMemory(
                f"{len(needs)} of these trainings at once need {machine.size(sum(needs))} of memory and "
                f"{machine.size(limit)} can be had; give --parallel {room}"
            )

    def carry_out(self, parallel: int, stop: Callable[[], bool]) -> Generator[list[Member], None, None]:
        """Every run as a process of its own, ``parallel`` at once; yields those that changed, four times a second.

        When ``stop()`` is true those that work save and end, and no other begins.
        """
        waiting = [member for member in self.members if member.state == "waiting"]
        running: list[tuple[Member, Child]] = []
        told = False
        try:
            while running or (waiting and not stop()):
                changed = []
                if stop() and not told:
                    told = True
                    for _, child in running:
                        child.interrupt()
                if not told:
                    changed += self._begin(waiting, running, parallel)
                for pair in list(running):
                    if _follow(*pair):
                        changed.append(pair[0])
                    if pair[0].state != "running":
                        running.remove(pair)
                yield changed
                if running or (waiting and not told):
                    time.sleep(LOOK)
        finally:
            for _, child in running:
                child.end()

    def _begin(self, waiting: list[Member], running: list[tuple[Member, Child]], parallel: int) -> list[Member]:
        """Start what may be started now; those that changed by it. A run in which another process works, such as one
        whose sweep was killed, is waited for."""
        changed, busy = [], 0
        for member in list(waiting):
            if len(running) + busy >= parallel:
                break
            if _is_busy(member.folder):
                busy += 1
                if member.stage != BUSY:
                    member.stage = BUSY
                    changed.append(member)
                continue
            waiting.remove(member)
            member.state, member.stage = "running", ""
            running.append((member, Child(member.folder, _threads(member.work.recipe, parallel))))
            changed.append(member)
        return changed

    # -- what came of it -------------------------------------------------------------------------

    def compare(self) -> dict[str, Any]:
        """All runs, the best by the loss on the validation rows first; also left as sweep.json and sweep.csv."""
        runs = comparing.in_order([
            {
                "run": member.name, "folder": str(member.folder), "settings": member.values, "state": member.state,
                "error": member.error,
                **(comparing.NOTHING if member.error else comparing.measured(member.folder)),
            }
            for member in self.members
        ])  # fmt: skip
        best = runs[0]["run"] if runs[0]["valid_loss"] is not None else None
        comparison = {
            "sweep": str(self.path), "settings": self.grid.varied, "fixed": self.grid.fixed,
            "chosen_by": "loss on the validation rows", "best": best, "runs": runs,
        }  # fmt: skip
        files.write_json(self.path / "sweep.json", comparison)
        files.write_text(self.path / "sweep.csv", comparing.as_csv(comparison))
        return comparison


def open_sweep(recipe: Path, path: Path | None, settings: Mapping[str, Sequence[Any]]) -> Sweep:
    """The sweep over these values of settings, by dotted name; ``path`` is runs/NAME-sweep without one.

    Every combination is read before anything is done: raises `RecipeError` for one that cannot be.
    """
    grid = Grid.of(settings)
    opened: dict[str, tuple[RunFolder, Recipe]] = {}
    wrong: dict[str, str] = {}
    combinations = dict(grid.combinations())
    for name, values in combinations.items():
        try:
            opened[name] = open_run(recipe, None, {**grid.fixed, **values, "export.formats": []})
        except RecipeError as error:
            wrong[name] = str(error)
    if wrong:
        name, said = next(iter(wrong.items()))
        everywhere = len(wrong) == len(combinations) and set(wrong.values()) == {said}
        raise RecipeError(said if everywhere else f"{said} ({_told(grid, combinations[name])})")
    if path is None:
        alone = next(iter(opened.values()))[0].path
        alone = alone if alone.name else alone.resolve()
        path = alone.with_name(f"{alone.name}-sweep")
    members = [
        Member(name, values, Work(RunFolder(path / name), opened[name][1], lambda: False, lambda _: None))
        for name, values in combinations.items()
    ]
    return Sweep(path, grid, members)


def _told(grid: Grid, values: dict[str, Any]) -> str:
    short = short_names(grid.varied)
    return "with " + ", ".join(f"{short[name]} = {show(value)}" for name, value in values.items())


def _place(stage: str, folder: RunFolder) -> Path:
    """Where a stage leaves what it makes."""
    return folder.teacher if stage == "teach" else folder.dataset


def _link(source: str, target: str) -> None:
    """The same file under another name where the file system has that, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is_done(work: Work) -> bool:
    """Whether a start of this run would find nothing to do."""
    folder = work.folder
    if not folder.finished("train", work.inputs("train")):
        return False
    return not report(folder)["rows"]["test"] or folder.finished("evaluate", work.inputs("evaluate"))


def _is_busy(folder: RunFolder) -> bool:
    try:
        with folder.lock():
            return False
    except RunError:
        return True


def _threads(recipe: Recipe, parallel: int) -> int | None:
    """A share of the cores for each of several runs: with all of them in each, they wait for each other."""
    if parallel == 1:
        return None
    from tunesmith.engines.choose import engine_name, settled

    cores = settled(engine_name(recipe.model.engine), recipe.model.precision)[1]
    return max(1, cores // parallel) if cores > 1 else None


def _follow(member: Member, child: Child) -> bool:
    """Take in what its process did; whether there was anything."""
    status, changed = child.status(), False  # first: what it wrote until it ended is then read
    for event in child.news():
        member.take(event)
        changed = True
    if status is None:
        return changed
    if status == 0:
        member.state = "done"
    elif status in INTERRUPTED:
        member.state, member.error = "stopped", "stopped; the same command continues it"
    else:
        member.state, member.error = "failed", child.sentence()
    return True
