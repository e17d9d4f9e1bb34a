"""The project that the studio shows: its folder, the runs and recipes in it, and what may be read of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request

from tunesmith.errors import RunError
from tunesmith.run import RunFolder

UPLOADS = "uploads"
"""Where files go that are dropped on a page."""
DEPTH = 2
"""Runs lie in runs/NAME; those of a sweep in runs/NAME-sweep/NAME."""


class Missing(RunError):
    """What was asked for is not in this project, or leads out of it."""


class Jobs(Protocol):
    """How runs are started and stopped: processes of their own, which outlive the studio. ``said`` is the sentence
    that the last one ended with."""

    def start(self, recipe: Path, run: Path | None = None, /) -> None: ...
    def stop(self, run: Path, /) -> None: ...
    def running(self, run: Path, /) -> bool: ...
    def killed(self, run: Path, /) -> bool: ...
    def stopping(self, run: Path, /) -> bool: ...
    def said(self, run: Path, /) -> str: ...


@dataclass
class Project:
    """One folder with runs/ and recipes. Names come from URLs: whatever leads out of the folder is `Missing`."""

    folder: Path
    jobs: Jobs
    kept: dict[str, Any] = field(default_factory=dict)
    """What pages remember between two requests, by the page's name."""
    on_stop: list[Callable[[], None]] = field(default_factory=list)
    """Called when the studio ends: for what must not outlive it."""
    stopping: bool = False

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()

    def stop(self) -> None:
        """The studio ends: streams see `stopping`. Runs go on."""
        self.stopping = True
        for call in self.on_stop:
            call()

    @property
    def runs_folder(self) -> Path:
        return self.folder / "runs"

    def runs(self) -> list[RunFolder]:
        """Every run folder, in no order."""
        return [RunFolder(path) for path in _runs_below(self.runs_folder, DEPTH)]

    def run(self, name: str) -> RunFolder:
        """The run of that name, as `name_of` gives it. Raises `Missing`."""
        folder = RunFolder(within(self.runs_folder, name, f"no run is called {name}"))
        if not folder.exists:
            raise Missing(f"no run is called {name} in {self.runs_folder}; the home page lists those that are there")
        return folder

    def name_of(self, run: RunFolder) -> str:
        """What a run is called in URLs and on pages: its path below runs/."""
        return run.path.relative_to(self.runs_folder).as_posix()

    def recipes(self) -> list[Path]:
        """The recipes beside the runs: *.toml and */recipe.toml."""
        found = [*self.folder.glob("*.toml"), *self.folder.glob("*/recipe.toml")]
        dropped = self.folder / UPLOADS  # what is dropped is data: it is never run
        return sorted(
            path for path in found
            if path.is_file() and path.resolve().is_relative_to(self.folder) and path.parent != dropped
            and _looks_like_a_recipe(path)
        )  # fmt: skip


def _looks_like_a_recipe(path: Path) -> bool:
    """Whether it says what is learned from, as other programs' settings do not; a broken one still does."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return False
    return re.search(r"^\s*\[?\s*(data|teacher)\b", text, re.MULTILINE) is not None


def within(folder: Path, name: str, refusal: str) -> Path:
    """The path of that name below ``folder``. Raises `Missing` where it, or a link in it, leads out."""
    path = folder / name
    try:
        inside = folder.resolve() in path.resolve().parents
        path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, no path at all, links in a circle
        inside = False
    if not inside:
        raise Missing(refusal)
    return path


def project_of(request: Request) -> Project:
    return request.app.state.project


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir() or (entry.is_symlink() and not _stays(entry.path, folder)):
            continue
        if Path(entry.path, "recipe.toml").exists():
            yield Path(entry.path)
        elif depth > 1:
            yield from _runs_below(Path(entry.path), depth - 1)


def _stays(link: str, folder: Path) -> bool:
    return Path(link).resolve().is_relative_to(folder.resolve())
