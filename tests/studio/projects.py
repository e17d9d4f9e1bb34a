"""Projects for the tests of the studio: folders with runs as a training leaves them, and a client that asks."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.testclient import TestClient

from tunesmith.studio.app import make_app
from tunesmith.studio.context import Project


class FakeJobs:
    """Remembers what it was asked, and says that the runs in ``at_work`` run, and those in ``dead`` were killed."""

    def __init__(self) -> None:
        self.started, self.stopped, self.at_work, self.dead = [], [], set(), set()

    def start(self, recipe: Path, run: Path | None = None) -> None:
        self.started.append((recipe, run))

    def stop(self, run: Path) -> None:
        self.stopped.append(run)

    def stopping(self, run: Path) -> bool:
        return run in self.stopped

    def said(self, run: Path) -> str:
        return ""

    def killed(self, run: Path) -> bool:
        return run.name in self.dead

    def running(self, run: Path) -> bool:
        return run.name in self.at_work


def client_of(folder: Path, **headers: str) -> TestClient:
    """A browser at the studio of ``folder``; ``client.jobs`` is a `FakeJobs`."""
    jobs = FakeJobs()
    client = TestClient(make_app(Project(folder, jobs)), headers={"accept": "text/html", **headers})
    client.jobs = jobs
    return client


def step(number: int, steps: int = 100, **values) -> dict:
    return {
        "event": "step", "stage": "train", "step": number, "steps": steps, "epoch": number / steps,
        "loss": 2.0 - number / steps, "learning_rate": 0.001, "gradient_norm": 1.5, "tokens": 700,
        "tokens_per_second": 60.0, "memory": 1_300_000_000, "seconds_left": float(steps - number),
        "time": 1_795_000_000.0 + number, **values,
    }  # fmt: skip


def write_run(folder: Path, name: str, events=(), manifest=None, results=None, model: str = "starter") -> Path:
    """A run folder with these events."""
    run = folder / "runs" / name
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(f'[model]\nname = "{model}"\n[data]\nsources = ["rows.jsonl"]\n')
    (run / "progress.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (run / "manifest.json").write_text(json.dumps(manifest or {}))
    if results is not None:
        (run / "evaluation").mkdir()
        (run / "evaluation" / "results.json").write_text(json.dumps(results))
    return run
