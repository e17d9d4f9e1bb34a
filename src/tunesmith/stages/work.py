"""What each stage needs, and how it is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from typing import Any

from tunesmith import files
from tunesmith.engines.ranks import ALONE, Ranks, agreed
from tunesmith.errors import CheckFailed, OutOfMemory, RunError, SourceError
from tunesmith.export.formats import EXPORTING, parse_formats
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe
from tunesmith.sources.text import hash_of
from tunesmith.stages import measuring, teaching, training
from tunesmith.stages.hosts import Hosts
from tunesmith.stages.outcome import report

PREPARING = 5
"""Counts up when preparing changes what it writes, so that older datasets are prepared again."""
TRAINING = 2
"""The same for training."""
EVALUATING = 3
"""And for evaluating."""
PROVED_AT_ONCE = 4096
"""Tokens of the texts that a proof writes and compares at the same time."""
Notify = Callable[[Progress], None]


class Stopped(Exception):
    """A person asked to stop in the middle of something long."""


class Work:
    """One call of `run`. What several stages need is opened once, when it is first needed."""

    def __init__(self, folder: RunFolder, recipe: Recipe, stop: Callable[[], bool], notify: Notify,
                 hosts: Hosts | None = None, ranks: Ranks = ALONE) -> None:  # fmt: skip
        """``hosts``: where the processes are that train, for the one that starts them; ``ranks``: for one of them."""
        self.folder, self.recipe, self.stop, self.notify = folder, recipe, stop, notify
        self.hosts, self.ranks = hosts, ranks
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

    @property
    def shape(self) -> Any:
        """The adapter that the recipe asks for."""
        from tunesmith.engines.base import LoraShape

        train = self.recipe.train
        layers = None if train.layers == "all" else train.layers
        return LoraShape(train.lora.rank, train.lora.alpha, train.lora.dropout, train.lora.modules, layers)

    def _opened(self, above: int = 0) -> Any:
        from tunesmith.engines.choose import open_engine

        model = self.recipe.model
        engine = open_engine(self.model.folder, self.arch, model.engine, model.precision, above, self.ranks)
        engine.add_adapter(self.shape, self.recipe.train.seed)
        return engine

    # -- what each stage depends on --------------------------------------------------------------

    def inputs(self, stage: str) -> str:
        """Hash of everything that decides a stage's result."""
        recipe = self.recipe
        if stage == "teach":
            return teaching.inputs(recipe) if recipe.teacher.is_set else ""
        if stage == "prepare":
            data = recipe.data.model_dump(exclude={"folder"})
            taught = [self.inputs("teach"), *self._taught_hashes()] if recipe.teacher.is_set else []
            return files.value_hash([PREPARING, self.model.hash, data, self._source_hashes, *taught])
        if stage == "train":
            settings = recipe.train.model_dump(exclude={"save_minutes", "prefix", "fit", "trackers"})
            return files.value_hash(
                [TRAINING, self.inputs("prepare"), recipe.model.model_dump(exclude={"name"}), settings]
            )
        if stage == "export":
            return files.value_hash([EXPORTING, self.inputs("train"), recipe.export.model_dump(), self._task_hashes])
        return files.value_hash(
            [EVALUATING, self.inputs("train"), recipe.evaluate.model_dump(exclude={"batch"}), self._task_hashes]
        )

    @cached_property
    def _source_hashes(self) -> list[str]:
        from tunesmith.dataset.prepare import source_files

        start = self.recipe.folder()

        def fetching(name: str, done: int, total: int) -> None:
            self._working(f"fetching {name}", done / max(total, 1))

        paths = source_files(self.recipe.data, fetching)
        return [f"{os.path.relpath(path, start)} {hash_of(path)}" for path in paths]

    def _taught_hashes(self) -> list[str]:
        """Of what the teacher wrote, which this run may do anew."""
        return [hash_of(path) for path in teaching.taught_files(self.folder) if path.exists()]

    @cached_property
    def _task_hashes(self) -> list[str]:
        return [hash_of(path) for path in measuring.task_files(self)]

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
        if stage == "evaluate" and fresh:
            measuring.forget(self)
        work = {
            "teach": lambda: teaching.teach(self), "prepare": self._prepare, "train": lambda: training.train(self),
            "evaluate": lambda: measuring.measure(self), "export": self._export,
        }  # fmt: skip
        yield from work[stage]()
        if not self.stopped:
            self.folder.finish(stage, self.inputs(stage))
            yield Progress("end", stage=stage)

    def _prepare(self) -> Iterator[Progress]:
        from tunesmith.dataset.prepare import prepare

        if self.recipe.teacher.is_set:
            self.need("teach", "taught")
        data = teaching.with_taught(self.folder, self.recipe).data
        yield from prepare(data, self.model.folder, self.folder.dataset, cluster=self.recipe.cluster.address)
        self.folder.update_manifest(model={"name": self.model.name, "sha256": self.model.hash})
        found = report(self.folder)
        grave = [finding["message"] for finding in found["findings"] if finding["severity"] != "note"]
        for message in grave:
            yield Progress("note", stage="prepare", message=message)
        refuse_errors(found, f"; {self.folder.dataset / 'quarantine.jsonl'} has each of them")
        if grave:
            yield Progress("note", stage="prepare", message=f"all of it is in {self.folder.dataset / 'report.json'}")

    def prefixed(
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
        self.stopped = agreed(self.ranks, self.stop())
        if prefix is None and not self.stopped:
            del engine  # two of them may not fit
            return self.engine, None
        return engine, prefix

    @property
    def _below(self) -> int:
        """How many layers no adapter changes, if their states are to be kept."""
        from tunesmith.engines.adapter import trained_layers

        return trained_layers(self.arch, self.shape).start if self.recipe.train.prefix == "auto" else 0

    def _export(self) -> Iterator[Progress]:
        self.need("train", "trained")
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

        return Exporting(self.folder, self.recipe, self.model, self._trained_engine, self.heard)

    def heard(self, progress: Progress) -> None:
        """Tell it, and stop there if that is asked for: files appear whole or not at all."""
        self.notify(progress)
        if self.stop():
            raise Stopped

    def _trained_engine(self) -> Any:
        """The trained model in float32: what an export is compared with. Where it does not fit into memory, layers
        below the trained ones are read again and again, which takes minutes instead of memory."""
        from tunesmith.engines.adapter import trained_layers
        from tunesmith.engines.choose import open_engine
        from tunesmith.engines.room import room_for
        from tunesmith.training.checkpoints import read_adapter, shape_of

        arrays, config = read_adapter(self.folder.adapter)
        shape, wanted = shape_of(config), self.recipe.model.engine
        lacking = room_for(self.arch, wanted, "fp32", PROVED_AT_ONCE).lacking
        above = trained_layers(self.arch, shape).start if lacking else 0
        if lacking and not above:
            raise OutOfMemory(f"this export cannot be proved: {lacking}; close other programs")
        engine = open_engine(self.model.folder, self.arch, wanted, "fp32", above)
        engine.add_adapter(shape, 0)
        engine.load_adapter_arrays(arrays)
        return engine

    def need(self, stage: str, done: str) -> None:
        if not self.folder.finished(stage, self.inputs(stage)):
            raise RunError(f"{self.folder} is not {done} with these settings yet; `tunesmith run` does every stage")


def refuse_errors(report: dict[str, Any], where: str) -> None:
    """Raises `SourceError` when there is nothing to train on, `CheckFailed` for what else must be mended before."""
    errors = [f["message"] for f in report["findings"] if f["severity"] == "error"]
    if not report["rows"]["train"]:
        raise SourceError(errors[0] + (where if report["quarantined"] > 1 else ""))
    if errors:
        more = f", and {len(errors) - 1} more; `tunesmith check` lists them" if len(errors) > 1 else ""
        raise CheckFailed(f"{errors[0]}{more}")
