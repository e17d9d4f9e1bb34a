"""The stages of a run, each done again only when what it depends on has changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.errors import CheckFailed, OutOfMemory, RunError, SourceError, TrainingError
from tunesmith.export.formats import EXPORTING, parse_formats
from tunesmith.export.proof_file import read_proofs
from tunesmith.progress import Progress
from tunesmith.run import STAGES, RunFolder
from tunesmith.settings import Recipe, SqlTaskSettings, make_recipe, read_recipe
from tunesmith.sources.text import source_errors

PREPARING = 4
"""Counts up when preparing changes what it writes, so that older datasets are prepared again."""
TRAINING = 2
"""The same for training."""


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
    recipe = read_recipe(recipe_or_run, overrides)
    name = recipe_or_run.resolve().parent.name if recipe_or_run.stem == "recipe" else recipe_or_run.stem
    return RunFolder(run or Path("runs") / name), recipe


Notify = Callable[[Progress], None]
_NO_TEST_ROWS = "there are no test rows; raise data.split.test, or name a file there, before the next training"


def run(folder: RunFolder, recipe: Recipe, *, stages: tuple[str, ...] = STAGES, fresh: bool = False,
        stop: Callable[[], bool] = lambda: False, notify: Notify = lambda _: None) -> Iterator[Progress]:  # fmt: skip
    """Do the stages that are named, and yield what happens, already recorded in progress.jsonl. Downloads, imports,
    and how far one measurement or one exported file is, are told to ``notify`` alone.

    A training with other settings or rows is never overwritten, unless ``fresh`` says so. The run keeps the recipe,
    but not of an export alone: what somebody wants once is not what the recipe asks of the next run. Raises any
    `TunesmithError`; what was finished before stays.
    """
    parse_formats(recipe.export.formats)  # a name that is not known is said before hours of training
    work = _Work(folder, recipe if fresh else _as_fitted(folder, recipe), stop, notify)
    with folder.lock():
        work.settle_other_training(fresh, "train" in stages)
        if stages != ("export",):
            folder.save_recipe(work.recipe)
        for stage in stages:
            if stage == "export" and not recipe.export.formats:
                continue  # nothing was asked for
            if stage == "evaluate" and len(stages) > 1 and not report(folder)["rows"]["test"]:
                yield folder.record(Progress("note", stage=stage, message=f"nothing is measured: {_NO_TEST_ROWS}"))
                continue  # a training must not end in an error for that
            try:
                for progress in work.stage(stage, fresh or (stages == ("export",) and work.hands_over)):
                    yield folder.record(progress)
                    if stage != "train" and stop():
                        return  # training stops by itself, at a step; the other stages lose nothing
            except _Stopped:
                return
            if work.stopped:
                return


class _Stopped(Exception):
    """A person asked to stop in the middle of something long."""


class _Work:
    """One call of `run`. What several stages need is opened once, when it is first needed."""

    def __init__(self, folder: RunFolder, recipe: Recipe, stop: Callable[[], bool], notify: Notify) -> None:
        self.folder, self.recipe, self.stop, self.notify = folder, recipe, stop, notify
        self.stopped = False

    @cached_property
    def model(self) -> Any:
        from tunesmith.models.find import find

        name = self.recipe.model.name
        return find(name, lambda share: self._working(f"making {name} ready", share))

    def _working(self, what: str, share: float) -> None:
        self.notify(Progress("working", message=what, done=round(100 * share), total=100))

    @cached_property
    def chat(self) -> Any:
        from tunesmith.models.chat import ChatFormat

        return ChatFormat(self.model.folder)

    @cached_property
    def arch(self) -> Any:
        from tunesmith.models.architecture import read_architecture

        return read_architecture(self.model.folder)

    @cached_property
    def engine(self) -> Any:
        return self._opened()

    def _opened(self, above: int = 0) -> Any:
        from tunesmith.engines.choose import open_engine

        model = self.recipe.model
        engine = open_engine(self.model.folder, self.arch, model.engine, model.precision, above)
        engine.add_adapter(lora_shape(self.recipe), self.recipe.train.seed)
        return engine

    # -- what each stage depends on --------------------------------------------------------------

    def inputs(self, stage: str) -> str:
        """Hash of everything that decides a stage's result."""
        recipe = self.recipe
        if stage == "prepare":
            data = recipe.data.model_dump(exclude={"folder"})
            return files.value_hash([PREPARING, self.model.hash, data, self._source_hashes])
        if stage == "train":
            settings = recipe.train.model_dump(exclude={"save_minutes", "prefix", "fit"})
            return files.value_hash(
                [TRAINING, self.inputs("prepare"), recipe.model.model_dump(exclude={"name"}), settings]
            )
        if stage == "export":
            return files.value_hash([EXPORTING, self.inputs("train"), recipe.export.model_dump(), self._task_hashes])
        return files.value_hash(
            [self.inputs("train"), recipe.evaluate.model_dump(exclude={"batch"}), self._task_hashes]
        )

    @cached_property
    def _source_hashes(self) -> list[str]:
        from tunesmith.dataset.prepare import source_files

        start = self.recipe.folder()

        def fetching(name: str, done: int, total: int) -> None:
            self._working(f"fetching {name}", done / max(total, 1))

        paths = source_files(self.recipe.data, fetching)
        return [f"{os.path.relpath(path, start)} {_hash(path)}" for path in paths]

    @cached_property
    def _task_hashes(self) -> list[str]:
        tasks = [t for t in self.recipe.evaluate.tasks if isinstance(t, SqlTaskSettings)]
        return [_hash(self.recipe.folder() / name) for t in tasks for name in (t.database, t.tables) if name]

    def settle_other_training(self, fresh: bool, again: bool) -> None:
        """A training that other inputs began is refused, or taken away when ``fresh`` says so; so is
        one with these inputs that is asked for ``again``. Raises `RunError`."""
        begun = self.folder.manifest().get("training")
        other = begun is not None and begun != self.inputs("train")
        if fresh and (other or again):
            self.folder.retire_training()
        elif other:
            raise RunError(
                f"{self.folder} holds a training with other settings or rows; "
                "give --fresh to replace it, or --run FOLDER to begin beside it"
            )

    # -- the stages ------------------------------------------------------------------------------

    def stage(self, stage: str, fresh: bool) -> Iterator[Progress]:
        if self.folder.finished(stage, self.inputs(stage)) and not fresh and (stage != "export" or self._is_there()):
            yield Progress("stage", stage=stage, message="unchanged")
            return
        yield Progress("stage", stage=stage)
        self.folder.begin(stage)
        work = {"prepare": self._prepare, "train": self._train, "evaluate": self._evaluate, "export": self._export}
        yield from work[stage]()
        if not self.stopped:
            self.folder.finish(stage, self.inputs(stage))
            yield Progress("end", stage=stage)

    def _prepare(self) -> Iterator[Progress]:
        from tunesmith.dataset.prepare import prepare

        yield from prepare(self.recipe.data, self.model.folder, self.folder.dataset)
        self.folder.update_manifest(model={"name": self.model.name, "sha256": self.model.hash})
        found = report(self.folder)
        grave = [finding["message"] for finding in found["findings"] if finding["severity"] != "note"]
        for message in grave:
            yield Progress("note", stage="prepare", message=message)
        _refuse_errors(found, f"; {self.folder.dataset / 'quarantine.jsonl'} has each of them")
        if grave:
            yield Progress("note", stage="prepare", message=f"all of it is in {self.folder.dataset / 'report.json'}")

    def _fitting(self) -> Iterator[Progress]:
        """See whether the training fits, and change the recipe so that it does where that is asked for.

        Raises `OutOfMemory` when it does not fit.
        """
        if self.recipe.train.fit == "off":
            return
        fit = yield from self.examine(self.folder.dataset)
        if fit is None:
            self.stopped = self.stop()
        elif fit.lacking and self.folder.manifest().get("training"):
            raise OutOfMemory(
                f"this training, which was begun, does not fit any more: {fit.lacking}; close other programs, or give "
                "--train.fit off to go on all the same"
            )
        elif fit.lacking and fit.changes and self.recipe.train.fit == "take":
            yield Progress("note", stage="train", message=f"{fit.lacking}: {fit.advice}")
            known = self.folder.manifest().get("fitted") or {"asked": _asked(self.recipe), "changes": {}}
            changes = {**known["changes"], **fit.changes}
            self.folder.update_manifest(fitted={**known, "changes": changes})
            self.recipe = _changed(self.recipe, changes)
            self.folder.save_recipe(self.recipe)
            if not self.folder.finished("prepare", self.inputs("prepare")):
                yield from self.stage("prepare", False)
                yield Progress("stage", stage="train")
            yield from self._fitting()
        elif fit.lacking:
            raise OutOfMemory(f"this training does not fit: {fit.lacking}; {fit.advice}; --train.fit off does not look")

    def examine(self, dataset: Path) -> Generator[Progress, None, Any]:
        """What the training on these rows takes; None when it was stopped meanwhile, or there are none."""
        from tunesmith.dataset.prepare import tokens
        from tunesmith.training.fit import Job, examine

        train, valid = tokens(dataset, "train"), tokens(dataset, "valid")
        if not len(train):
            return None
        recipe, shape = self.recipe, lora_shape(self.recipe)
        place = self.folder.path
        job = Job.of(self.model.folder, self.arch, recipe.model, shape, recipe.train, train, valid, place)
        fit = yield from examine(job, self.stop, "train")
        if fit and fit.trial:
            yield Progress("fits", stage="train", memory=fit.trial.memory, total=fit.limit, seconds_left=fit.seconds)
        return fit

    def _train(self) -> Iterator[Progress]:
        from tunesmith.dataset.prepare import tokens
        from tunesmith.training.checkpoints import Checkpoints, adapter_config
        from tunesmith.training.guard import Guard
        from tunesmith.training.loop import Loop, Rows, passes

        self._need("prepare", "prepared")
        yield from self._fitting()
        if self.stopped:
            return
        self.folder.update_manifest(training=self.inputs("train"))
        checkpoints = Checkpoints(self.folder.checkpoints, self.inputs("train"))
        train, valid = tokens(self.folder.dataset, "train"), tokens(self.folder.dataset, "valid")
        engine, prefix = yield from self._prefixed("train", lambda: passes(train, valid, self.recipe.train))
        if self.stopped:
            return
        config = adapter_config(lora_shape(self.recipe), self.arch.layers, self.recipe.model.name)
        guard = Guard(self.folder.path)
        loop = Loop(engine, Rows(train, valid, prefix), self.recipe.train, checkpoints, config, self.stop, guard)
        try:
            yield from loop.run()
        except TrainingError:
            if loop.state.best_step:
                checkpoints.publish(loop.state.best_step, self.folder.adapter)
            raise
        self.stopped = not loop.finished
        if loop.finished:
            checkpoints.publish(loop.state.best_step, self.folder.adapter)
            self.folder.update_manifest(
                adapter={
                    "step": loop.state.best_step,
                    "sha256": files.file_hash(self.folder.adapter / "adapter_model.safetensors"),
                }
            )

    def _prefixed(
        self, stage: str, rows: Callable[[], tuple[Any, float]], *, whole: bool = False
    ) -> Generator[Progress, None, Any]:
        """(engine, states of the layers below the trained ones or None), for rows that go through it so often. With
        states the engine keeps no lower layer in memory, unless the ``whole`` model is needed; without it is the one
        that all stages share."""
        from tunesmith.training.prefix import Plan

        below = self._below
        if not below:
            return self.engine, None
        engine = self.engine if whole or "engine" in self.__dict__ else self._opened(above=below)
        plan = Plan(stage, self.model.hash, below, self.arch.width, *rows())
        prefix = yield from plan.carry_out(engine, self.stop)
        self.stopped = self.stop()
        if prefix is None and not self.stopped:
            del engine  # two of them may not fit
            return self.engine, None
        return engine, prefix

    @property
    def _below(self) -> int:
        """How many layers no adapter changes, if their states are to be kept."""
        from tunesmith.engines.adapter import trained_layers

        return trained_layers(self.arch, lora_shape(self.recipe)).start if self.recipe.train.prefix == "auto" else 0

    def _evaluate(self) -> Iterator[Progress]:
        from tunesmith.dataset import prepare
        from tunesmith.evaluation.evaluate import Candidate, Evaluation
        from tunesmith.training.checkpoints import Checkpoints, read_adapter

        self._need("train", "trained")
        rows, tokens = list(prepare.read(self.folder.dataset, "test")), prepare.tokens(self.folder.dataset, "test")
        if not rows:
            raise SourceError(f"{self.folder}: {_NO_TEST_ROWS}")
        checkpoints = Checkpoints(self.folder.checkpoints)
        steps = checkpoints.milestones() if self.recipe.evaluate.checkpoints else []

        def arrays(path: Path) -> Callable[[], Any]:
            return lambda: read_adapter(path)[0]

        candidates = [
            Candidate("base", None, asked=True),
            *(Candidate(f"step-{step:06d}", arrays(checkpoints.path(step)), asked=False) for step in steps),
            Candidate("tuned", arrays(self.folder.adapter), asked=True),
        ]
        kinds = {task.kind for task in self.recipe.evaluate.tasks}
        if "loss" not in kinds:
            engine, prefix = self.engine, None
        else:
            engine, prefix = yield from self._prefixed(
                "evaluate",
                lambda: ([tokens[i][0] for i in range(len(tokens))], len(candidates)),
                whole=len(kinds) > 1,
            )
            if self.stopped:
                return
        evaluation = Evaluation(
            engine, self.chat, self.recipe.evaluate, self.recipe.folder(), rows, tokens, prefix, self._heard
        )
        yield from evaluation.run(candidates)
        files.write_jsonl(self.folder.evaluation / "samples.jsonl", evaluation.samples)
        files.write_json(self.folder.evaluation / "results.json", evaluation.results)

    def _export(self) -> Iterator[Progress]:
        self._need("train", "trained")
        yield from self.exporting().run(parse_formats(self.recipe.export.formats))

    @property
    def hands_over(self) -> bool:
        """Whether an export goes to another program, which may have forgotten what it was given."""
        return any(name.startswith(("ollama:", "lmstudio")) for name in self.recipe.export.formats)

    def _is_there(self) -> bool:
        """Whether no file of an export was taken away or changed."""
        return self.exporting().is_there(parse_formats(self.recipe.export.formats))

    def exporting(self) -> Any:
        """The room that writes and proves files of this run."""
        from tunesmith.export.produce import Exporting

        return Exporting(self.folder, self.recipe, self.model, self._trained_engine, self._heard)

    def _heard(self, progress: Progress) -> None:
        """Tell it, and stop there if that is asked for: files appear whole or not at all."""
        self.notify(progress)
        if self.stop():
            raise _Stopped

    def _trained_engine(self) -> Any:
        """The trained model in float32: what an export is compared with."""
        from tunesmith.engines.choose import open_engine
        from tunesmith.training.checkpoints import read_adapter, shape_of

        arrays, config = read_adapter(self.folder.adapter)
        engine = open_engine(self.model.folder, self.arch, self.recipe.model.engine, "fp32")
        engine.add_adapter(shape_of(config), 0)
        engine.load_adapter_arrays(arrays)
        return engine

    def _need(self, stage: str, done: str) -> None:
        if not self.folder.finished(stage, self.inputs(stage)):
            raise RunError(f"{self.folder} is not {done} with these settings yet; `tunesmith run` does every stage")


@dataclass(frozen=True)
class Sample:
    """One row as the model will see it: (text, learned, special) of every token."""

    origin: str
    tokens: list[tuple[str, bool, bool]]
    question: str = ""
    """What the row asks first; empty: it is text that nobody asks for."""


@dataclass(frozen=True)
class Check:
    """What `check` found."""

    report: dict[str, Any]
    samples: list[Sample]
    fit: Any = None
    """`training.fit.Fit`, unless the recipe says not to look, or there is nothing to train on."""


def check(recipe: Recipe, rows: int = 3, show: Notify = lambda _: None) -> Check:
    """Read, clean and tokenize everything; train nothing, and leave nothing behind."""
    from tunesmith.dataset import prepare

    work = _Work(RunFolder(Path()), recipe, lambda: False, show)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as scratch:
        dataset = Path(scratch) / "dataset"
        for progress in prepare.prepare(recipe.data, work.model.folder, dataset):
            show(progress)
        tokens, read = prepare.tokens(dataset, "train"), list(islice(prepare.read(dataset, "train"), rows))
        shown = [_sample(work.chat, read[row], *tokens[i]) for i, row in enumerate(tokens.rows[:rows])]
        fit = None
        if recipe.train.fit != "off":
            fit = _told(work.examine(dataset), show)
        return Check(files.read_json(dataset / "report.json"), shown, fit)


def _told(steps: Generator[Progress, None, Any], show: Notify) -> Any:
    """What the steps return, each of them shown."""
    while True:
        try:
            show(next(steps))
        except StopIteration as end:
            return end.value


def _sample(chat: Any, row: Any, ids: Any, learn: Any) -> Sample:
    tokens, at = [], 0
    for text, count in chat.pieces(ids.tolist()):
        tokens.append((text, bool(learn[at]), int(ids[at]) in chat.special))
        at += count
    return Sample(str(row.origin), tokens, next((m.content for m in row.messages if m.role == "user"), ""))


def _refuse_errors(report: dict[str, Any], where: str) -> None:
    """Raises `SourceError` when there is nothing to train on, `CheckFailed` for what else must be mended before."""
    errors = [f["message"] for f in report["findings"] if f["severity"] == "error"]
    if not report["rows"]["train"]:
        raise SourceError(errors[0] + (where if report["quarantined"] > 1 else ""))
    if errors:
        more = f", and {len(errors) - 1} more; `tunesmith check` lists them" if len(errors) > 1 else ""
        raise CheckFailed(f"{errors[0]}{more}")


def prove(folder: RunFolder, ggufs: list[Path], notify: Notify = lambda _: None) -> Iterator[Progress]:
    """Compare GGUF files with the run's trained model; without any named, those that were exported.

    The proofs are in export/proof.json. Raises `RunError` when there is none to prove.
    """
    exporting = _Work(folder, folder.recipe(), lambda: False, notify).exporting()
    ggufs = ggufs or sorted(p for p in folder.export.glob("*.gguf") if not p.name.endswith("-lora.gguf"))
    if not ggufs:
        raise RunError(f"{folder} has no GGUF to prove; `tunesmith export {folder}` writes one")
    with folder.lock():
        for gguf in ggufs:
            for progress in exporting.prove(gguf):
                yield folder.record(progress)


def proofs(folder: RunFolder) -> list[dict[str, Any]]:
    """The proofs of an exported run's files; empty when there are none."""
    return read_proofs(folder)


def report(folder: RunFolder) -> dict[str, Any]:
    """The dataset report of a prepared run."""
    return _read(folder, folder.dataset / "report.json", "prepared")


def results(folder: RunFolder) -> list[dict[str, Any]]:
    """The measured models of an evaluated run, base first."""
    return _read(folder, folder.evaluation / "results.json", "evaluated")


def _read(folder: RunFolder, path: Path, done: str) -> Any:
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise RunError(f"{folder} is not {done} yet; `tunesmith run` does every stage") from None


def _as_fitted(folder: RunFolder, recipe: Recipe) -> Recipe:
    """The recipe with the changes that an earlier start of the same training took so that it fits."""
    known = folder.manifest().get("fitted")
    if recipe.train.fit == "off" or not known or known["asked"] != _asked(recipe):
        return recipe
    return _changed(recipe, known["changes"])


def _asked(recipe: Recipe) -> str:
    """Hash of what a person asks of a training, whatever became of it."""
    train = recipe.train.model_dump(mode="json", exclude={"fit", "save_minutes", "prefix"})
    return files.value_hash([recipe.model.model_dump(mode="json"), recipe.data.model_dump(mode="json"), train])


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    return make_recipe(recipe.model_dump(mode="json", exclude_none=True), changes)


def lora_shape(recipe: Recipe) -> Any:
    """The adapter that the recipe asks for."""
    from tunesmith.engines.base import LoraShape

    train = recipe.train
    layers = None if train.layers == "all" else train.layers
    return LoraShape(train.lora.rank, train.lora.alpha, train.lora.dropout, train.lora.modules, layers)


def _hash(path: Path) -> str:
    with source_errors(path):
        return files.file_hash(path)
