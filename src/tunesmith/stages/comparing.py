"""What the runs of a sweep came to, side by side: read from their folders alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.models.safetensors_file import read_header
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.stages.grid import short_names, show
from tunesmith.training.checkpoints import WEIGHTS

NOTHING: dict[str, Any] = {
    "step": None, "valid_loss": None, "test_loss": None, "tasks": {}, "parameters": None, "seconds": None,
    "memory": None, "changes": {},
}  # fmt: skip
"""Of a run that failed."""


def measured(folder: RunFolder) -> dict[str, Any]:
    """Numbers of a finished run.

    step: of the chosen checkpoint; valid_loss: by which it was chosen, None without validation rows; test_loss and
    tasks: of the tuned model, on rows that chose nothing; parameters: numbers that were trained; seconds: of training,
    over all starts; memory: bytes at its peak; changes: settings that it took so that it fits.
    """
    manifest, events = folder.manifest(), list(folder.events())
    step = manifest["adapter"]["step"]
    losses = [e.loss for e in events if e.event == "validation" and e.stage == "train" and e.step == step]
    header = read_header(folder.adapter / WEIGHTS)
    return {
        **NOTHING,
        "step": step,
        "valid_loss": losses[-1] if losses else None,
        **_tested(folder.evaluation / "results.json"),
        "parameters": sum(math.prod(tensor.shape) for tensor in header.values()),
        "seconds": _seconds(events),
        "memory": max((e.memory for e in events if e.event == "step" and e.memory), default=None),
        "changes": (manifest.get("fitted") or {}).get("changes", {}),
    }


def _tested(path: Path) -> dict[str, Any]:
    """Nothing where there are no test rows."""
    results = files.read_json(path) if path.exists() else []
    tuned = next((result for result in results if result["model"] == "tuned"), {})
    kept = ("score", "interval", "n")
    tasks = {name: {key: task[key] for key in kept if key in task} for name, task in tuned.get("tasks", {}).items()}
    return {"test_loss": tuned.get("loss"), "tasks": tasks}


def _seconds(events: Iterable[Progress]) -> float | None:
    """Of the stage "train", over all starts; the time between two starts does not count."""
    total, began, last = 0.0, None, None
    for event in events:
        if event.stage != "train" or event.time is None:
            continue
        if event.event == "stage":
            began = last = None if event.message else event.time  # it says "unchanged", and nothing follows
        elif last is not None:
            if event.event == "start" and not event.step:
                total, last = 0.0, began or last  # from the beginning: what was trained before does not count
            total += event.time - last
            last = event.time
    return round(total, 1) if total else None


def in_order(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lowest loss on the validation rows first, then those without one, then those that failed."""
    return sorted(runs, key=lambda run: (bool(run["error"]), run["valid_loss"] is None, run["valid_loss"] or 0.0))


def as_csv(comparison: dict[str, Any]) -> str:
    """One line a run, for a spreadsheet."""
    short = short_names(comparison["settings"])
    tasks = list(dict.fromkeys(task for run in comparison["runs"] for task in run["tasks"]))
    numbers = ("valid_loss", "step", "test_loss", "parameters", "seconds", "memory")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    scores = [column for task in tasks for column in (task, f"{task} low", f"{task} high")]
    table.writerow(["run", *short.values(), *numbers, *scores, "state", "error"])
    for run in comparison["runs"]:
        found = [run["tasks"].get(task, {}) for task in tasks]
        cells = [cell for task in found for cell in (task.get("score"), *task.get("interval", (None, None)))]
        table.writerow([
            run["run"], *(show(run["settings"][name]) for name in short), *(run[number] for number in numbers), *cells,
            run["state"], run["error"],
        ])  # fmt: skip
    return text.getvalue()
