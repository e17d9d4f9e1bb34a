from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_chat import write_recipe, write_rows

from tunesmith import files, machine, stages
from tunesmith.engines import choose
from tunesmith.errors import CheckFailed, OutOfMemory, RunError, SourceError, StorageError, TrainingError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.stages import measuring
from tunesmith.stages.work import Work

RECIPE = """
[train]
epochs = 1
batch = 8
learning_rate = 1e-2
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", 60)
    path = tmp_path / "sums.toml"
    write_recipe(path, tiny_model, RECIPE)
    return path


def go(
    recipe: Path, fresh: bool = False, which: tuple[str, ...] = stages.STAGES, **overrides: object
) -> list[Progress]:
    folder, made = stages.open_run(
        recipe, recipe.parent / "run", {k.replace("__", "."): v for k, v in overrides.items()}
    )
    return list(stages.run(folder, made, stages=which, fresh=fresh))


def done(events: list[Progress]) -> list[str]:
    return [e.stage for e in events if e.event == "end"]


def test_a_run_leaves_everything_in_its_folder(recipe):
    go(recipe)
    run = recipe.parent / "run"
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert (results[0]["model"], results[-1]["model"]) == ("base", "tuned")
    assert results[-1]["loss"] < results[0]["loss"]
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["r"] == 8
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["stages"]) == {"prepare", "train", "evaluate"}
    assert {"versions", "machine", "model", "adapter"} <= set(manifest)


def test_stages_whose_inputs_did_not_change_are_not_done_again(recipe):
    assert done(go(recipe)) == ["prepare", "train", "evaluate"]
    assert done(go(recipe)) == []
    assert done(go(recipe, evaluate__tasks=["loss"], evaluate__checkpoints=False)) == ["evaluate"]


def test_a_training_with_other_settings_is_never_overwritten_unasked(recipe):
    go(recipe)
    before = (recipe.parent / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(RunError, match="other settings or rows; give --fresh"):
        go(recipe, train__epochs=2)
    assert (recipe.parent / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert done(go(recipe, fresh=True, train__epochs=2)) == ["prepare", "train", "evaluate"]


def test_more_rows_are_another_training(recipe):
    go(recipe, which=("prepare",))
    write_rows(recipe.parent / "rows.jsonl", 70)
    assert done(go(recipe)) == ["prepare", "train", "evaluate"]
    write_rows(recipe.parent / "rows.jsonl", 80)
    with pytest.raises(RunError, match="other settings or rows"):
        go(recipe)


def test_two_processes_cannot_work_in_one_run(recipe):
    folder, made = stages.open_run(recipe, recipe.parent / "run")
    with folder.lock(), pytest.raises(RunError, match="another tunesmith is working"):
        list(stages.run(folder, made))


def test_a_stage_alone_says_what_is_missing(recipe):
    with pytest.raises(RunError, match="is no run yet"):
        go(recipe, which=("export",))
    assert not (recipe.parent / "run").exists()
    go(recipe, which=("prepare",))
    with pytest.raises(RunError, match="is not prepared with these settings yet"):
        go(recipe, which=("train",), data__seed=1)
    with pytest.raises(RunError, match="is not trained"):
        go(recipe, which=("evaluate",))


def test_a_run_folder_can_be_given_instead_of_its_recipe(recipe):
    go(recipe, which=("prepare",))
    folder, made = stages.open_run(recipe.parent / "run")
    assert done(list(stages.run(folder, made))) == ["train", "evaluate"]
    with pytest.raises(RunError, match="is no run folder"):
        stages.open_run(recipe.parent)


def test_what_is_neither_run_nor_recipe_is_answered_with_the_runs_there_are(recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(RunError, match="nothing is neither a run nor a recipe; there is no run here yet"):
        stages.open_run(Path("runs/nothing"))
    for name in ("near", "other"):
        files.write_text(Path("runs") / name / "recipe.toml", recipe.read_text())
    with pytest.raises(RunError, match="runs/nearr is neither a run nor a recipe; there are runs/near, runs/other"):
        stages.open_run(Path("runs/nearr"))


def test_without_test_rows_a_run_ends_well_and_says_that_nothing_is_measured(recipe):
    events = go(recipe, data__split__test=0)
    assert "nothing is measured: there are no test rows" in events[-1].message
    assert (recipe.parent / "run" / "adapter").exists()
    with pytest.raises(SourceError, match="there are no test rows"):
        go(recipe, which=("evaluate",), data__split__test=0)


def test_rows_of_which_none_can_be_trained_on_are_an_error_and_stay_in_quarantine(recipe):
    (recipe.parent / "rows.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    with pytest.raises(
        SourceError, match=r"none of the 2 rows and documents can be trained on; the first, rows\.jsonl:1"
    ):
        go(recipe)
    assert len((recipe.parent / "run" / "dataset" / "quarantine.jsonl").read_text().splitlines()) == 2
    found = stages.check(stages.open_run(recipe)[1])
    assert found.report["findings"][0]["severity"] == "error"
    assert (found.samples, found.fit) == ([], None)


def test_a_disk_that_fills_while_a_checkpoint_is_written_leaves_the_one_before(recipe, monkeypatch):
    from tunesmith.training import checkpoints

    real, saves = checkpoints.save, []

    def full(*arguments):
        saves.append(1)
        if len(saves) > 4:  # two files a checkpoint
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(StorageError, match=r"the disk is full.*unharmed"):
        go(recipe, train__validate_every=2)
    kept = checkpoints.Checkpoints(recipe.parent / "run" / "checkpoints")
    assert kept.steps() == [2, 4]
    monkeypatch.setattr(checkpoints, "save", real)
    assert "train" in done(go(recipe, train__validate_every=2))


def test_a_loss_that_breaks_keeps_the_best_adapter_so_far(recipe, monkeypatch):
    from tunesmith.engines import torch_engine

    real = torch_engine.TorchEngine.step

    def broken(self, batches, settings):
        result = real(self, batches, settings)
        return result if settings.step < 5 else torch_engine.StepResult(float("nan"), 1.0, 1)

    monkeypatch.setattr(torch_engine.TorchEngine, "step", broken)
    with pytest.raises(TrainingError, match="became nan at step 5"):
        go(recipe, train__validate_every=2)
    assert (recipe.parent / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_check_shows_rows_as_the_model_sees_them_and_writes_nothing(recipe):
    (recipe.parent / "rows.jsonl").write_text('{"prompt": "你好", "completion": "嗨😀"}\n' * 3)
    _, made = stages.open_run(recipe, None, {"data.split.valid": 0, "data.split.test": 0})
    before = sorted(recipe.parent.iterdir())
    found = stages.check(made, rows=1)
    assert "".join(text for text, learned, _ in found.samples[0].tokens if learned) == "嗨😀<|im_end|>"
    assert found.samples[0].origin == "rows.jsonl:1"
    assert sorted(recipe.parent.iterdir()) == before


def test_progress_survives_a_line_cut_by_a_crash(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record(Progress("step", stage="train", step=1, loss=1.0))
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"event": "ste')
    folder.record(Progress("start", stage="train", step=0))
    folder.record(Progress("step", stage="train", step=1, loss=0.5))
    assert [(e.event, e.loss) for e in folder.events()] == [("start", None), ("step", 0.5)]


def test_a_fresh_training_that_was_stopped_is_not_taken_for_finished(recipe):
    go(recipe)
    folder, made = stages.open_run(recipe, recipe.parent / "run")
    events = stages.run(folder, made, stages=("train",), fresh=True, stop=lambda: True)
    assert done(list(events)) == []
    with pytest.raises(RunError, match="is not trained"):
        go(recipe, which=("evaluate",))
    assert done(go(recipe)) == ["train", "evaluate"]


def test_another_folder_can_be_named_for_the_recipe_of_a_run(recipe):
    go(recipe)
    folder, made = stages.open_run(recipe.parent / "run", recipe.parent / "beside", {"train.epochs": 2})
    assert done(list(stages.run(folder, made))) == ["prepare", "train", "evaluate"]
    assert stages.results(RunFolder(recipe.parent / "run"))
    assert folder.path.name == "beside"


def test_rows_that_are_trained_on_and_measured_on_end_the_run(recipe):
    twice = {"data.split.test": ["rows.jsonl"], "data.clean.duplicates": "keep"}
    _, made = stages.open_run(recipe, None, twice)
    assert any(f["severity"] == "error" for f in stages.check(made).report["findings"])
    with pytest.raises(CheckFailed, match="rows that are measured on ask what is trained on too"):
        go(recipe, **{k.replace(".", "__"): v for k, v in twice.items()})


def _fits_with(monkeypatch, changes):
    """Every training lacks something until these changes are made."""
    from tunesmith.engines.needs import Needs
    from tunesmith.training import fit as fitting

    def examine(job, stop, stage):
        yield Progress("working", stage=stage)
        lacks = any(getattr(job.settings, name.removeprefix("train.")) != value for name, value in changes.items())
        needed = Needs(2 * 10**9 if lacks else 1, 0, 0, 0, 0, 0, ("", 0))
        return fitting.Fit(needed, 10**9, None, 0, 0, 10**9, dict(changes), ("the same result",) * len(changes))

    monkeypatch.setattr(fitting, "examine", examine)


def test_what_does_not_fit_is_not_trained_and_says_what_would(recipe, monkeypatch):
    _fits_with(monkeypatch, {"train.micro_batch": 1})
    with pytest.raises(OutOfMemory, match=r"tunesmith run --fit` takes train.micro_batch = 1 \(the same result\)"):
        go(recipe)
    assert not (recipe.parent / "run" / "checkpoints").exists()


def test_settings_that_fit_are_taken_kept_and_found_again(recipe, monkeypatch):
    _fits_with(monkeypatch, {"train.micro_batch": 1})
    go(recipe, train__fit="take")
    assert RunFolder(recipe.parent / "run").recipe().train.micro_batch == 1
    again = go(recipe)  # without the flag, and with a longer evaluation: the same training
    assert [e.message for e in again if e.event == "stage"] == ["unchanged"] * 3
    assert done(go(recipe, evaluate__max_new_tokens=3)) == ["evaluate"]
    assert done(go(recipe, train__fit="off", fresh=True)) == ["prepare", "train", "evaluate"]
    assert RunFolder(recipe.parent / "run").recipe().train.micro_batch is None


def test_a_training_that_was_begun_is_not_changed_under_way(recipe, monkeypatch):
    folder, made = stages.open_run(recipe, recipe.parent / "run", {"train.fit": "take"})
    list(stages.run(folder, made, stop=lambda: bool(folder.manifest().get("training"))))
    _fits_with(monkeypatch, {"train.micro_batch": 1})
    with pytest.raises(OutOfMemory, match="which was begun, does not fit any more"):
        list(stages.run(folder, made))
    assert done(go(recipe, train__fit="off")) == ["train", "evaluate"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kind": "json", "schema_file": "none.json"}, "there is no file or folder"),
        ({"kind": "function", "file": "none.py"}, "there is no file or folder"),
        ({"kind": "sql", "database": "none.sql"}, "none.sql"),
    ],
)
def test_a_task_that_cannot_be_measured_is_said_before_the_training(recipe, task, said):
    with pytest.raises(SourceError, match=said):
        go(recipe, evaluate__tasks=[task])
    assert not (recipe.parent / "run" / "checkpoints").exists()
    with pytest.raises(SourceError, match=said):
        stages.check(stages.open_run(recipe, None, {"evaluate.tasks": [task]})[1])


def test_a_model_whose_top_layers_fit_and_that_does_not_fit_as_a_whole_is_measured_by_its_loss(recipe, monkeypatch):
    opened, open_engine = list[int](), choose.open_engine

    def opening(*given):
        opened.append(given[4])
        return open_engine(*given)

    monkeypatch.setattr(choose, "open_engine", opening)
    monkeypatch.setattr(machine, "within_reach", lambda: 10**6)
    events = go(recipe, train__layers=1, train__epochs=2, evaluate__tasks=["loss", {"kind": "contains"}])
    assert done(events) == ["prepare", "train", "evaluate"]
    assert opened
    assert 0 not in opened  # no lower layer was ever kept in memory
    said = [e.message for e in events if e.event == "note" and "whole model" in e.message]
    assert len(said) == 1
    assert "not measured are contains, what was forgotten" in said[0]
    results = json.loads((recipe.parent / "run" / "evaluation" / "results.json").read_text())
    assert all({"loss", "tasks", "general"} & set(result) == {"loss"} for result in results)
    assert said[0][10:] in (recipe.parent / "run" / "evaluation" / "report.html").read_text()


def test_tasks_alone_that_do_not_fit_are_refused_with_what_would(recipe, monkeypatch):
    monkeypatch.setattr(machine, "within_reach", lambda: 10**6)
    with pytest.raises(OutOfMemory, match=r"the whole model takes .* can be had; add \"loss\" to evaluate.tasks"):
        go(recipe, train__layers=1, evaluate__tasks=[{"kind": "contains"}])
    assert not (recipe.parent / "run").exists()  # nothing was trained in vain


def test_no_more_answers_are_written_at_once_than_memory_allows(recipe, monkeypatch):
    work = Work(*stages.open_run(recipe), lambda: False, lambda _: None)
    monkeypatch.setattr(machine, "within_reach", lambda: 600 << 20)
    few, left_out = measuring.affordable(work, 10_000)
    assert 1 <= few.batch < work.recipe.evaluate.batch
    assert not left_out
