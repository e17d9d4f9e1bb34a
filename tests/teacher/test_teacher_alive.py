"""No dead options: changing any of the teacher's settings changes what is asked, how, or what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import serving, written
from taught import documents, settings

from tunesmith.errors import TunesmithError
from tunesmith.settings import every_field
from tunesmith.teacher import client as http
from tunesmith.teacher.crew import Crew
from tunesmith.teacher.teach import Teacher

CHANGES: dict[str, Any] = {
    "url": "http://127.0.0.1:9/v1",
    "gguf": "none.gguf",
    "model": "other",
    "key": "NO_SUCH_VARIABLE",
    "way": "questions",
    "sources": ["docs/0.md"],
    "passage": 32,
    "questions": 2,
    "phrasings": 1,
    "start": ["Can I"],
    "follow_up": True,
    "held_out": 0.9,
    "prompts": "own",
    "judge": "teacher-1",
    "temperature": 0.1,
    "max_tokens": 99,
    "retries": 0,
    "parallel": 1,
    "timeout": 0.05,
    "most_requests": 7,
    "most_tokens": 1000,
    "most_money": 0.001,
    "price.input": 3.0,
    "price.output": 3.0,
}
TOPICS = {"way": "topics", "sources": ["topics.txt"]}
PRICED = {"price": {"input": 1.0, "output": 1.0}}
CONTEXT: dict[str, dict[str, Any]] = {"start": TOPICS, "most_money": PRICED, "gguf": {}, "timeout": {"timeout": 5.0}}


def observe(folder: Path, into: Path, values: dict[str, Any]) -> Any:
    """What was asked, how, and what came of it."""
    made: list[Any] = []
    with (
        serving(write=_poor, seconds=0.1 if "timeout" in values else 0.0) as fake,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        patch.setattr(http, "FIRST_PAUSE", 0.001)
        patch.setattr(http, "TRIES", 2)
        patch.setattr(http, "PROBES", 1)
        patch.setattr("tunesmith.teacher.teach.Crew", lambda *a: made.append(a[2]) or Crew(*a))
        wanted = {"url": fake.url, "max_tokens": 200, **values}
        if "gguf" in values:
            wanted["url"] = ""
        try:
            list(Teacher(settings(**wanted), folder, into, lambda: False).run())
        except TunesmithError as error:
            return str(error).replace(str(into), "").replace(fake.url, "")
    left = {p.name: p.read_text() for p in into.iterdir() if p.name != "journal.jsonl"}
    return made, sorted(json.dumps(body) for body in fake.seen), left


def _poor(prompt: str, form: Any) -> str:
    """One answer speaks of itself, which is asked for again."""
    return "As an AI I say 1000." if "QUESTION: How high is the tower Fpomolggppmi" in prompt else written(prompt)


def fields() -> set[str]:
    return {name.removeprefix("teacher.") for name in every_field() if name.startswith("teacher.")}


def test_every_setting_is_in_the_list():
    assert set(CHANGES) == fields()


@pytest.mark.parametrize("name", list(CHANGES))
def test_changing_it_changes_what_happens(name, tmp_path):
    documents(tmp_path, 3)
    (tmp_path / "topics.txt").write_text("WordPress")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "again.en.txt").write_text("No: {{ why }}")
    context = CONTEXT.get(name, {})
    unchanged = observe(tmp_path, tmp_path / "base", context)
    assert unchanged == observe(tmp_path, tmp_path / "again", context), "the same settings do the same"
    section, _, field = name.partition(".")
    change = {section: {field: CHANGES[name]}} if field else {name: CHANGES[name]}
    assert observe(tmp_path, tmp_path / "changed", {**context, **change}) != unchanged
