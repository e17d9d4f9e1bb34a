"""The run folder: everything about one run, as files. All state is here."""

from __future__ import annotations

import json
import os
import platform
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w

from tunesmith import files
from tunesmith.errors import RunError
from tunesmith.machine import record_of
from tunesmith.progress import Progress
from tunesmith.settings import Recipe, make_recipe

STAGES = ("teach", "prepare", "train", "evaluate", "export")


class RunFolder:
    """Names the places of a run; nothing is created before something is written.

    recipe.toml, manifest.json, teacher/, dataset/, progress.jsonl, checkpoints/, adapter/, evaluation/, export/.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.teacher = path / "teacher"
        self.dataset = path / "dataset"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.evaluation = path / "evaluation"
        self.export = path / "export"
        self._recipe = path / "recipe.toml"
        self._manifest = path / "manifest.json"
        self._progress = path / "progress.jsonl"
        self.lock_handle: int | None = None
        """Of the open lock file: a process that inherits it keeps the run locked when this one is killed."""

    def __str__(self) -> str:
        return str(self.path)

    # -- the recipe ------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self._recipe.exists()

    def recipe(self) -> Recipe:
        """The recipe this run was made with. Raises `RunError` when this is no run folder."""
        try:
            values = tomllib.loads(self._recipe.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.path} is no run folder: it has no recipe.toml") from None
        except (ValueError, OSError) as error:
            raise RunError(f"{self._recipe} cannot be read ({error}); run the recipe again") from None
        return make_recipe(values, where=str(self._recipe), folder=self.path)

    def save_recipe(self, recipe: Recipe) -> None:
        """Keep the recipe as resolved."""
        files.write_text(self._recipe, tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)))

    # -- the manifest ----------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """Versions, machine, hashes and finished stages; empty for a new run."""
        try:
            return json.loads(self._manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            raise RunError(f"{self._manifest} is damaged; name another folder with --run") from None

    def update_manifest(self, **values: Any) -> None:
        """Set top-level keys of the manifest."""
        files.write_json(self._manifest, {**_machine(), **self.manifest(), **values})

    def finished(self, stage: str, inputs: str) -> bool:
        """Whether the stage was finished with exactly these inputs."""
        return self.stage_inputs(stage) == inputs

    def stage_inputs(self, stage: str) -> str | None:
        """The hash of what a stage was finished with."""
        return self.manifest().get("stages", {}).get(stage)

    def begin(self, stage: str) -> None:
        """Note that a stage and those after it are not finished any more."""
        stages = self.manifest().get("stages", {})
        self.update_manifest(stages={s: stages[s] for s in STAGES[: STAGES.index(stage)] if s in stages})

    def finish(self, stage: str, inputs: str) -> None:
        """Note that a stage is finished with these inputs."""
        self.update_manifest(stages={**self.manifest().get("stages", {}), stage: inputs})

    def retire_training(self) -> None:
        """Take away checkpoints, adapter, evaluation and export. The manifest forgets them first, and each
        folder is renamed before it is deleted: killed at any moment, no half of them is ever used."""
        self.begin("train")
        self.update_manifest(training=None)
        for folder in (self.checkpoints, self.adapter, self.evaluation, self.export):
            if folder.exists():
                folder.rename(self.path / f".{folder.name}.{time.time_ns()}.tmp")
        files.remove_leftovers(self.path)

    # -- progress --------------------------------------------------------------------------------

    def record(self, progress: Progress) -> Progress:
        """Append one event to progress.jsonl, with the time, in one write."""
        stamped = replace(progress, time=round(time.time(), 3))
        line = stamped.to_json() + "\n"
        with files.storage_errors(self._progress):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                if os.lseek(handle, 0, os.SEEK_END) and not self._ends_in_newline():
                    line = "\n" + line  # a killed process left half a line
                os.write(handle, line.encode("utf-8"))
            finally:
                os.close(handle)
        return stamped

    def _ends_in_newline(self) -> bool:
        with self._progress.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def events(self) -> Iterator[Progress]:
        """Everything that happened. A half-written line is passed over; after a crash, the steps
        that were lost with it are left out, so that each step appears once."""
        if not self._progress.exists():
            return iter(())
        events: list[Progress] = []
        with self._progress.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    event = Progress.from_json(json.loads(line))
                except (ValueError, TypeError, AttributeError):
                    continue
                if event.event == "start" and event.step is not None:
                    events = [e for e in events if e.step is None or e.step <= event.step or e.stage != event.stage]
                events.append(event)
        return iter(events)

    # -- one process at a time -------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run. Raises `RunError` when one already does."""
        with files.storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not files.try_lock(handle):
                raise RunError(f"another tunesmith is working in {self.path}; wait until it is done")
            with files.storage_errors(self.path):  # so that the studio finds it, and can stop it
                os.truncate(handle, 0)
                os.write(handle, json.dumps(record_of(os.getpid())).encode())
            for folder in (self.path, self.teacher, self.checkpoints, self.dataset, self.evaluation, self.export):
                files.remove_leftovers(folder)
            for folder in (self.adapter, self.dataset):
                files.recover_folder(folder)
            self.lock_handle = handle
            try:
                yield
            finally:
                self.lock_handle = None
                os.truncate(handle, 0)  # whoever is killed leaves its record: that is how one knows
        finally:
            os.close(handle)  # which also unlocks; the kernel does so when the process is killed


def versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    found = {}
    for package in ("tunesmith", "torch", "mlx", "tokenizers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    return {
        "versions": versions(),
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
    }
