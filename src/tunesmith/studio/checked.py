"""What `tunesmith check` says of a recipe, asked in a process of its own and kept beside the project."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith import files
from tunesmith.pages.tokens import token_row
from tunesmith.studio import jobs

SCRATCH = ".studio"
"""In the project's folder: what the studio can make again at any time."""
ROWS = 6
PARTS = ("train", "valid", "test")
FATES = (*PARTS, "quarantined", "merged", "removed")
SEVERITIES = {"error": "✗", "warning": "!", "note": "•"}
State = Literal["none", "running", "failed", "done"]


@dataclass(frozen=True)
class Checked:
    """``said``: while it runs its newest line, else the sentence with which it ended, if any."""

    state: State
    said: str = ""
    seconds: float = 0.0
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> dict[str, Any]:
        return self.answer["report"]

    @property
    def fit(self) -> dict[str, Any] | None:
        return self.answer["fit"]

    @property
    def ready(self) -> bool:
        """Whether nothing that was found keeps a run from starting."""
        errors = any(finding["severity"] == "error" for finding in self.report["findings"])
        return not errors and (self.fit is None or self.fit["fits"]) and self.report["rows"]["train"] > 0

    @property
    def fates(self) -> Iterator[tuple[str, int]]:
        """What becomes of rows: those that are something, and the three parts in any case."""
        for name in FATES:
            count = self.report["rows"][name] if name in PARTS else self.report[name]
            if count or name in PARTS:
                yield name, count

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """(severity, its sign, message), the gravest first."""
        return [(severity, sign, finding["message"]) for severity, sign in SEVERITIES.items()
                for finding in self.report["findings"] if finding["severity"] == severity]  # fmt: skip

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [token_row(s["origin"], [tuple(token) for token in s["tokens"]], s.get("question", ""))
                for s in self.answer["samples"]]  # fmt: skip


def place_of(project: Path, recipe: Path) -> Path:
    """Where the check of a recipe works and keeps what it found."""
    return project / SCRATCH / "checks" / recipe.relative_to(project)


def begin(project: Path, recipe: Path) -> None:
    """Check the recipe as it is now; a check of it that is under way is ended first."""
    place = place_of(project, recipe)
    jobs.end(place)
    for name in ("page.html", "answer.json"):
        (place / name).unlink(missing_ok=True)
    files.write_text(place / "recipe.sha256", files.file_hash(recipe))
    arguments = ["check", str(recipe), "--rows", str(ROWS), "--html", str(place / "page.html"), "--json"]
    jobs.begin(place, arguments, place / "answer.json")


def look(project: Path, recipe: Path) -> Checked:
    """What is known of the recipe as it is now."""
    place = place_of(project, recipe)
    at_work = jobs.running(place)
    try:
        same = (place / "recipe.sha256").read_text() == files.file_hash(recipe)
        seconds = max(0.0, time.time() - (place / "recipe.sha256").stat().st_mtime)
    except OSError:
        return Checked("none")
    if not same:
        return Checked("none")
    if at_work:
        return Checked("running", next(iter(reversed(jobs.log_lines(place))), ""), seconds)
    try:
        return Checked("done", jobs.said(place), answer=files.read_json(place / "answer.json"))
    except (OSError, ValueError):  # it ended without an answer
        return Checked("failed", jobs.said(place))
