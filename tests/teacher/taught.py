"""Teaching with the fake server, for tests: a folder of documents, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fake_teacher import document

from tunesmith.settings import TeacherSettings
from tunesmith.teacher.teach import Teacher


def documents(folder: Path, count: int = 3, facts: int = 4) -> Path:
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / "docs" / f"{i}.md").write_text(document(100 * i, facts))
    return folder


def settings(url: str, **values: Any) -> TeacherSettings:
    return TeacherSettings.model_validate({"url": url, "model": "teacher-1", "sources": ["docs"], **values})


def teach(folder: Path, url: str, into: str = "teacher", stop: Any = None, **values: Any) -> list[Any]:
    """The events of one start."""
    return list(Teacher(settings(url, **values), folder, folder / into, stop or (lambda: False)).run())


def lines(folder: Path, name: str = "rows", into: str = "teacher") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / into / f"{name}.jsonl").read_text().splitlines()]


def report(folder: Path, into: str = "teacher") -> dict[str, Any]:
    return json.loads((folder / into / "report.json").read_text())


def adds_up(found: dict[str, Any]) -> bool:
    lost = sum(found["quarantined"].values()) + sum(found["dropped"].values())
    return found["questions"] == found["rows"] + found["held_out"] + lost + found["not_asked"]
