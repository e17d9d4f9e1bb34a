"""The stage "evaluate" as a whole, on a tiny model: what is measured, what is kept, what is asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith import stages
from tunesmith.engines import choose
from tunesmith.engines.base import Batch
from tunesmith.evaluation.asking import Asking
from tunesmith.evaluation.kept import Kept
from tunesmith.evaluation.question import Question
from tunesmith.models.architecture import read_architecture
from tunesmith.models.chat import ChatFormat
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import make_recipe

TASKS = ["loss", "exact", "contains"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"prompt": f"What is in drawer {i}?", "completion": f"A key with the number {i * 7}."} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def go(folder: Path, model: Path, fresh: bool = False, notify: Any = lambda _: None, **evaluate: Any) -> list[Any]:
    settings = {"tasks": TASKS, "max_new_tokens": 4, "batch": 2, **evaluate}
    recipe = make_recipe({
        "model": {"name": str(model), "engine": "torch", "precision": "fp32"},
        "data": {"sources": ["rows.jsonl"], "split": {"test": 0.3}},
        "train": {"epochs": 1, "batch": 8, "learning_rate": 0.01, "validate_every": 3},
        "evaluate": settings,
    }, folder=folder)  # fmt: skip
    which = ("prepare", "train", "evaluate")
    return list(stages.run(RunFolder(folder / "run"), recipe, fresh=fresh, stages=which, notify=notify))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["model"]: one for one in json.loads((folder / "run/evaluation/results.json").read_text())}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts of every call of `generate`; set ``asked.limit`` and the engine dies behind so many calls."""
    calls = list[int]()
    real = choose.open_engine

    def watched(*arguments: Any) -> Any:
        engine = real(*arguments)
        generate = engine.generate

        def counted(prompts: Any, **options: Any) -> Any:
            if len(calls) == DIES[0]:
                raise KeyboardInterrupt
            calls.append(len(prompts))
            return generate(prompts, **options)

        engine.generate = counted
        return engine

    monkeypatch.setattr(choose, "open_engine", watched)
    DIES[0] = -1
    return calls


DIES = [-1]


def test_base_checkpoints_and_tuned_are_measured_by_the_same_questions(folder, tiny_model):
    go(folder, tiny_model)
    found = results(folder)
    assert next(iter(found)) == "base"
    assert list(found)[-1] == "tuned"
    assert len(found) > 3
    assert set(found["base"]["tasks"]) == {"exact", "contains"}
    assert "difference" not in found["base"]["tasks"]["exact"]
    difference = found["tuned"]["tasks"]["exact"]["difference"]
    assert difference["verdict"] == "not distinguishable"
    assert difference["n"] == found["base"]["tasks"]["exact"]["n"]
    assert found["tuned"]["gain"]["mean"] == pytest.approx(found["base"]["loss"] - found["tuned"]["loss"])
    assert "tasks" not in found["step-000003"]
    assert found["base"]["general"]["n"] > 0
    assert "arithmetic" in found["base"]["general"]["by"]
    assert "memorised" in found["tuned"]
    assert "memorised" not in found["base"]
    page = (folder / "run/evaluation/report.html").read_text()
    assert "What is in drawer" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_two_tasks_that_ask_the_same_are_answered_once(folder, tiny_model, asked):
    go(folder, tiny_model, forgetting=False)
    questions = results(folder)["base"]["tasks"]["exact"]["n"]
    assert sum(asked) <= 2 * questions + 2 * 64  # base and tuned; and what was learned, for the memorising


def test_an_evaluation_that_was_killed_goes_on_behind_its_last_answer(folder, tiny_model, asked):
    DIES[0] = 3
    with pytest.raises(KeyboardInterrupt):
        go(folder, tiny_model)
    before = sum(asked)
    kept = folder / "run/evaluation/kept.jsonl"
    with kept.open("ab") as file:
        file.write(b'{"key": "torn')
    DIES[0] = -1
    told = list[Progress]()
    go(folder, tiny_model, notify=told.append)
    first = next(one for one in told if "answers" in one.message)
    assert first.message == "base: answers, 6 of them kept from before"
    assert (first.done or 0) >= 6
    interrupted, continued = json.loads((folder / "run/evaluation/results.json").read_text()), sum(asked)
    asked.clear()
    go(folder, tiny_model, fresh=True)
    assert sum(asked) == continued, "nothing was asked twice, nothing left out"
    assert before == 6
    assert json.loads((folder / "run/evaluation/results.json").read_text()) == interrupted


def test_with_retrieval_base_and_tuned_are_asked_once_more_with_passages(folder, tiny_model, monkeypatch):
    prompts = list[str]()
    real = Asking._generated

    def noted(self: Asking, ids: list[list[int]], *rest: Any) -> list[str]:
        prompts.extend(self.chat.decode(one) for one in ids)
        return real(self, ids, *rest)

    monkeypatch.setattr(Asking, "_generated", noted)
    go(folder, tiny_model, retrieval=2, forgetting=False)
    found = results(folder)
    assert list(found)[:2] == ["base", "base+retrieval"]
    assert list(found)[-2:] == ["tuned", "tuned+retrieval"]
    assert "loss" not in found["base+retrieval"]
    n = found["base+retrieval"]["tasks"]["exact"]["n"]
    assert found["tuned"]["tasks"]["exact"]["over_retrieval"]["n"] == n
    assert sum("A key with the number" in prompt for prompt in prompts) == 2 * n
    assert len(prompts) == 4 * n
    samples = [json.loads(line) for line in (folder / "run/evaluation/samples.jsonl").read_text().splitlines()]
    assert not any("A key with the number" in s["question"] for s in samples), "what was asked, not what was added"


def test_the_likeliest_choice_is_the_answer_and_its_length_does_not_count(tiny_model, tmp_path):
    chat = ChatFormat(tiny_model)
    engine = choose.open_engine(tiny_model, read_architecture(tiny_model), "torch", "fp32")
    choices = ("blue", "a very long answer that goes on", "x", "red as ever")
    questions = [Question(f"{i}", ({"role": "user", "content": f"Which {i}?"},), "x", f"{i}", choices=choices)
                 for i in range(5)]  # fmt: skip
    asking = Asking(engine, chat, Kept(tmp_path / "kept.jsonl"), 3, 8, lambda _: None)
    steps = asking.answers("base", "some hash", False, questions)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answers = end.value
            break
    for question, answer in zip(questions, answers, strict=True):
        prompt = chat.prompt(question.messages)
        means = []
        for choice in choices:
            ids = chat.encode(choice)
            row = (prompt + ids, [False] * len(prompt) + [True] * len(ids))
            losses, counts = engine.losses(Batch.of([row]))
            means.append(losses[0] / counts[0])
        assert answer == choices[means.index(min(means))]
