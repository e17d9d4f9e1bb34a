"""What a run has come to, read from the ends of its files: quick however long it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.evaluation.verdict import Sentence, verdict
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.studio.context import Jobs, Project
from tunesmith.studio.reading import changed, read_json

State = Literal["running", "failed", "killed", "stopped", "new", "finished"]
"""new: it was never trained, and nobody is at it; stopped: its last stage did not come to its end; killed: neither, and
its process was ended from outside, or with the machine."""
TAIL = 16_384
"""Bytes of progress.jsonl that are read first: about fifty events."""
MOST = 64
"""So many times more of it at most, where a stage began that long ago."""


@dataclass(frozen=True)
class Summary:
    """One run in a line."""

    name: str
    state: State
    stage: str
    """Of a run that is not finished: where it is."""
    step: int | None
    steps: int | None
    model: str
    loss: float | None
    """The best validation loss."""
    score: float | None
    tone: str
    verdict: str
    """The first sentence of the verdict, with its tone; empty before it was measured."""
    time: float
    """When something happened last, in seconds since 1970."""


class Summaries:
    """Of all runs, kept until one of their files changes."""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[Any, Summary]] = {}

    def of(self, run: RunFolder, name: str, jobs: Jobs) -> Summary:
        running = jobs.running(run.path)
        killed = not running and jobs.killed(run.path)
        stamp = (running, killed, *(_stamp(run.path / file) for file in (
            "recipe.toml", "progress.jsonl", "manifest.json", "checkpoints", "evaluation/results.json"
        )))  # fmt: skip
        kept = self._kept.get(run.path)
        if kept is None or kept[0] != stamp:
            kept = self._kept[run.path] = stamp, summarise(run, name, running=running, killed=killed)
        return kept[1]


def summary_of(project: Project, run: RunFolder) -> Summary:
    """The run in a line, from what is kept where nothing changed."""
    summaries: Summaries = project.kept.setdefault("summaries", Summaries())
    return summaries.of(run, project.name_of(run), project.jobs)


def summarise(run: RunFolder, name: str, *, running: bool, killed: bool) -> Summary:
    """Raises nothing: a run whose files are damaged is one of which little is known."""
    manifest = read_json(run.path / "manifest.json", {})
    recent = Recent(run.path / "progress.jsonl")
    last, step = recent.last(lambda e: e.event not in ("note", "fits")), recent.last(lambda e: bool(e.steps))
    results = read_json(run.evaluation / "results.json", [])
    said = sentences(results)[:1]
    times = [event.time for event in recent.events[-1:] if event.time]
    return Summary(
        name=name, state=_state(last, manifest, running=running, killed=killed), stage=last.stage if last else "",
        step=step.step if step else None, steps=step.steps if step else None,
        model=_model_name(run, manifest), loss=_best_loss(run, recent), score=_score(results),
        tone=said[0].tone if said else "", verdict=said[0].text if said else "",
        time=times[0] if times else changed(run.path / "recipe.toml"),
    )  # fmt: skip


def _state(last: Progress | None, manifest: dict[str, Any], *, running: bool, killed: bool) -> State:
    if running:
        return "running"
    if last is not None and last.event == "failed" and last.stage != "export":
        return "failed"
    # A stage that was skipped says why. An export that fails takes nothing away from what is there.
    ended = last is not None and (last.event in ("end", "failed") or (last.event == "stage" and bool(last.message)))
    if ended and "train" in (manifest.get("stages") or ()):
        return "finished"
    if killed:
        return "killed"
    return "new" if ended or last is None else "stopped"


class Recent:
    """The newest events of a progress file, oldest first; more of them are read where they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, TAIL
        self.events = self._tail()

    def last(self, wanted: Callable[[Progress], bool]) -> Progress | None:
        """The newest event that is wanted, if it is not too far back."""
        while True:
            found = next((event for event in reversed(self.events) if wanted(event)), None)
            if found or self._whole or self._read >= TAIL * MOST:
                return found
            self._read *= 8
            self.events = self._tail()

    def _tail(self) -> list[Progress]:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - self._read))
                lines = file.read().split(b"\n")
        except OSError:
            size, lines = 0, []
        self._whole = size <= self._read
        return list(parsed(lines if self._whole else lines[1:]))


def parsed(lines: list[bytes]) -> Iterator[Progress]:
    """The events of these lines; half a line is passed over."""
    for line in lines:
        try:
            yield Progress.from_json(json.loads(line))
        except (ValueError, TypeError, AttributeError):
            continue


def sentences(results: Any) -> list[Sentence]:
    """The verdict: whether it learned comes first. Empty where that was not measured, or by another version."""
    try:
        return verdict(results)
    except (KeyError, TypeError, AttributeError, ValueError):
        return []


def _score(results: Any) -> float | None:
    """Of the tuned model, in the first task that could be graded."""
    try:
        tuned = next(result for result in results if result.get("model") == "tuned")
        return next(task["score"] for task in tuned["tasks"].values() if task.get("score") is not None)
    except (StopIteration, KeyError, TypeError, AttributeError):
        return None


def _best_loss(run: RunFolder, recent: Recent) -> float | None:
    """As the newest checkpoint knows it; before there is one, the lowest that was just measured."""
    newest = max(run.checkpoints.glob("step-*/state.json"), default=None, key=lambda path: path.parent.name)
    best = read_json(newest, {}).get("best_loss") if newest else None
    if best is not None:
        return best
    losses = [e.loss for e in recent.events if e.event == "validation" and e.step and e.loss is not None]
    return min(losses, default=None)


def _model_name(run: RunFolder, manifest: dict[str, Any]) -> str:
    model = manifest.get("model")
    named = model.get("name") if isinstance(model, dict) else ""
    if not named:
        import tomllib

        try:
            named = tomllib.loads((run.path / "recipe.toml").read_text("utf-8")).get("model", {}).get("name", "")
        except (OSError, ValueError):
            named = ""
    return Path(str(named)).name


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
