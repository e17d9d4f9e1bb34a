"""What takes minutes at the end of the demo on a slow machine tells how far it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_chat import write_recipe, write_rows

from tunesmith import stages
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.serving.answers import compare

RECIPE = """
[train]
epochs = 1
batch = 8
[evaluate]
tasks = ["loss", {kind = "sql", database = "shop.sql"}]
max_new_tokens = 4
batch = 2
checkpoints = false
forgetting = false
[export]
formats = ["gguf:f16"]
[export.proof]
tokens = 32
prompts = 2
questions = 2
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[RunFolder, list[Progress]]:
    """A run, and what was told of the inside of its stages."""
    folder = tmp_path_factory.mktemp("told")
    rows = write_rows(folder / "rows.jsonl", 60)
    rows.write_text(rows.read_text().replace('"completion": "', '"completion": "SELECT '))
    (folder / "shop.sql").write_text("CREATE TABLE t (a);")
    write_recipe(folder / "sums.toml", tiny_model, RECIPE)
    run, recipe = stages.open_run(folder / "sums.toml", folder / "sums")
    heard: list[Progress] = []
    for _ in stages.run(run, recipe, notify=heard.append):
        pass
    return run, heard


def shares(told: list[Progress], message: str) -> list[float]:
    return [e.done / e.total for e in told if e.message == message and e.done is not None and e.total]


@pytest.mark.parametrize("model", ["base", "tuned"])
def test_measuring_tells_how_many_rows_are_done(told, model):
    loss, answers = (shares(told[1], f"{model}: {what}") for what in ("loss", "answers"))
    assert loss == sorted(loss)
    assert (loss[0], loss[-1]) == (0, 1)
    assert len(loss) > 2
    assert answers == sorted(answers)
    assert len(answers) > 2


@pytest.mark.parametrize("what", ["answers of the trained model", "answers of the file", "model", "test questions"])
def test_proving_tells_how_far_each_part_is(told, what):
    found = shares(told[1], f"proof of sums-f16.gguf: {what}")
    assert found == sorted(found)
    assert found[-1] > 0


def test_comparing_tells_which_question_is_answered_and_by_which_model(told):
    heard: list[Progress] = []
    assert len(list(compare(told[0], ["1 + 1?", "2 + 2?"], notify=heard.append))) == 2
    messages = list(dict.fromkeys(event.message for event in heard))
    assert messages == [
        "loading the model", "question 1 of 2: base", "question 1 of 2: tuned", "question 2 of 2: base",
        "question 2 of 2: tuned",
    ]  # fmt: skip
