"""The stage and its command, as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_teacher import serving
from taught import documents

from tunesmith import stages
from tunesmith.cli.app import call
from tunesmith.cli.edge import exit_status
from tunesmith.errors import RecipeError, RunError
from tunesmith.settings import make_recipe

pytestmark = pytest.mark.usefixtures("fresh_consoles")


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    documents(tmp_path, 8)
    monkeypatch.chdir(tmp_path)
    with serving() as fake:
        (tmp_path / "helper.toml").write_text(
            f'[teacher]\nurl = "{fake.url}"\nmodel = "teacher-1"\nsources = ["docs"]\nheld_out = 0.4\n'
            f'[model]\nname = "{tiny_model}"\nengine = "torch"\n[train]\nsteps = 2\nbatch = 2\nfit = "off"\n'
        )
        yield fake


def test_a_run_teaches_prepares_trains_and_measures_on_what_was_held_out(recipe):
    folder, made = stages.open_run(Path("helper.toml"))
    events = list(stages.run(folder, made))
    assert [e.stage for e in events if e.event == "end"] == ["teach", "prepare", "train", "evaluate"]
    taught, prepared = stages.taught(folder), stages.report(folder)
    assert prepared["rows"]["test"] == taught["held_out"] > 0
    assert prepared["rows"]["train"] + prepared["rows"]["valid"] == taught["rows"]
    asked = len(recipe.seen)
    again = list(stages.run(folder, made))
    assert [e.message for e in again if e.event == "stage"] == ["unchanged"] * 4
    assert len(recipe.seen) == asked


def test_other_settings_of_the_teacher_do_not_replace_a_training_in_silence(recipe):
    folder, made = stages.open_run(Path("helper.toml"))
    list(stages.run(folder, made))
    _, other = stages.open_run(Path("helper.toml"), None, {"teacher.phrasings": 1})
    asked = len(recipe.seen)
    with pytest.raises(RunError, match="other settings or rows; give --fresh"):
        list(stages.run(folder, other))
    assert len(recipe.seen) == asked


def test_before_it_is_taught_there_is_nothing_to_prepare_or_check(recipe):
    folder, made = stages.open_run(Path("helper.toml"))
    with pytest.raises(RunError, match="is not taught with these settings yet"):
        list(stages.run(folder, made, stages=("prepare",)))
    with pytest.raises(RunError, match="is not taught yet; `tunesmith teach` asks the teacher"):
        stages.with_taught(folder, made)
    list(stages.run(folder, made, stages=("teach",)))
    found = stages.check(stages.with_taught(folder, made))
    assert found.report["rows"]["train"] > 10
    assert found.samples[0].origin.startswith("docs/")


def test_the_command_shows_what_became_of_every_question(recipe, capsys):
    assert exit_status(lambda: call(["teach", "helper.toml", "--json"])) == 0
    taught = json.loads(capsys.readouterr().out)["taught"]
    assert taught["questions"] == taught["rows"] + taught["held_out"]


def test_a_dry_run_of_the_command_asks_nothing(recipe, capsys):
    assert exit_status(lambda: call(["teach", "helper.toml", "--dry-run", "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 8 * 6
    assert exit_status(lambda: call(["teach", "helper.toml", "--dry-run", "--teacher.price.input", "1"])) == 0
    shown = capsys.readouterr().out
    assert "8 passages: about 48 requests" in shown
    assert "height of tower" in shown
    assert recipe.seen == []


@pytest.mark.parametrize(("values", "said"), [
    ({"teacher": {"url": "x", "gguf": "y", "sources": ["a"]}}, "two teachers"),
    ({"teacher": {"url": "x"}}, "teacher.sources is missing"),
    ({"teacher": {"model": "m", "sources": ["a"]}}, "needs a url, or a gguf"),
    ({"teacher": {"url": "x", "sources": ["a"], "most_money": 1}}, "most_money needs price"),
    ({"teacher": {"url": "x", "sources": ["a"], "start": ["How"]}}, 'start goes with way = "topics"'),
    ({"teacher": {"url": "x", "sources": ["a"], "modle": "m"}}, "did you mean teacher.model"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_said(values, said):
    with pytest.raises(RecipeError, match=said):
        make_recipe(values)


def test_a_recipe_without_a_teacher_says_so_when_it_is_to_teach(tmp_path, tiny_model):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "plain.toml").write_text(f'[data]\nsources = ["rows.jsonl"]\n[model]\nname = "{tiny_model}"\n')
    folder, made = stages.open_run(tmp_path / "plain.toml", tmp_path / "run")
    with pytest.raises(RecipeError, match="the recipe has no teacher"):
        list(stages.run(folder, made, stages=("teach",)))
