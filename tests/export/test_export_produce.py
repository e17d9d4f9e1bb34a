"""From a finished run to files that run elsewhere, each GGUF proved, and nothing handed over that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_ollama import FakeOllama
from safetensors.numpy import load, save
from tiny_chat import write_recipe, write_rows

from tunesmith import files, machine, stages
from tunesmith.cli import console, hand_over
from tunesmith.cli.app import call
from tunesmith.cli.edge import exit_status
from tunesmith.engines import choose
from tunesmith.errors import CheckFailed, EngineError, ModelError, RecipeError, RunError
from tunesmith.export import produce
from tunesmith.export.formats import Formats, parse_formats
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.serving import answers
from tunesmith.stages.work import Work

RECIPE = """
system = "You add."
[train]
epochs = 2
batch = 8
learning_rate = 2e-2
[evaluate]
max_new_tokens = 8
[export.proof]
tokens = 200
prompts = 3
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_rows(folder / "rows.jsonl", 60)
    write_recipe(folder / "sums.toml", tiny_model, RECIPE)
    run, recipe = stages.open_run(folder / "sums.toml", folder / "sums")
    for _ in stages.run(run, recipe):
        pass
    return folder / "sums"


@pytest.fixture(autouse=True)
def fresh_consoles() -> Iterator[None]:
    yield
    console.standard_output.cache_clear()
    console.standard_error.cache_clear()


def export(run: Path, *formats: str, **settings: Any) -> list[Progress]:
    overrides = {f"export.proof.{name}": value for name, value in settings.items()}
    folder, recipe = stages.open_run(run, None, {"export.formats": list(formats), **overrides})
    return list(stages.run(folder, recipe, stages=("export",)))


def said(events: list[Progress]) -> str:
    return " ".join(event.message for event in events)


def unwritten(run: Path, kind: str) -> None:
    (run / "export" / f"sums-{kind}.gguf").unlink(missing_ok=True)


def test_a_gguf_comes_with_its_proof_and_a_modelfile(trained):
    export(trained, "gguf:f16")
    [proof] = stages.proofs(RunFolder(trained))
    assert proof["holds"]
    assert proof["base was quantized"] is False
    assert {check["name"] for check in proof["checks"]} >= {"prompt", "model", "end", "ollama"}
    assert proof["sha256"] == files.file_hash(trained / "export" / "sums-f16.gguf")
    written = (trained / "export" / "Modelfile").read_text()
    assert written.startswith("FROM ./sums-f16.gguf\n")
    assert "You add." in written


def test_a_model_that_does_not_fit_as_a_whole_is_proved_layer_by_layer(trained, tmp_path, monkeypatch):
    opened, open_engine = list[int](), choose.open_engine

    def opening(*given):
        opened.append(given[4])
        return open_engine(*given)

    recipe = trained.parent / "sums.toml"
    run, made = stages.open_run(recipe, tmp_path / "run", {"train.layers": 1, "export.formats": ["gguf:f16"]})
    for _ in stages.run(run, made, stages=("prepare", "train")):
        pass
    monkeypatch.setattr(choose, "open_engine", opening)
    monkeypatch.setattr(machine, "within_reach", lambda: 10**6)
    for _ in stages.run(run, made, stages=("export",)):
        pass
    assert opened == [1]  # of two layers
    [proof] = stages.proofs(run)
    assert proof["holds"]


def test_what_was_exported_is_not_made_again(trained):
    export(trained, "gguf:f16")
    before = (trained / "export" / "sums-f16.gguf").stat().st_mtime_ns
    assert [e.message for e in export(trained, "gguf:f16")] == ["unchanged"]
    assert (trained / "export" / "sums-f16.gguf").stat().st_mtime_ns == before


def test_what_was_taken_away_or_cut_short_is_written_again(trained):
    export(trained, "gguf:f16", "merged")
    gguf, merged = trained / "export" / "sums-f16.gguf", trained / "export" / "merged"
    whole = gguf.read_bytes()
    gguf.write_bytes(whole[:-5000])
    shutil.rmtree(merged)
    export(trained, "gguf:f16", "merged")
    assert gguf.read_bytes() == whole
    assert merged.is_dir()
    assert said(export(trained, "gguf:f16", "merged")) == "unchanged"


def test_an_export_by_hand_leaves_the_recipe_of_the_run_alone(trained):
    recipe = (trained / "recipe.toml").read_bytes()
    export(trained, "lora")
    assert (trained / "recipe.toml").read_bytes() == recipe
    assert RunFolder(trained).recipe().export.formats == ()
    folder, resolved = stages.open_run(trained)
    assert "export" not in {event.stage for event in stages.run(folder, resolved)}


def test_after_ollama_refused_the_proof_of_the_unchanged_file_is_not_measured_again(trained, tmp_path, monkeypatch):
    unwritten(trained, "f16")
    with FakeOllama(tmp_path) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.host)
        ollama.refuse_create = "unsupported architecture"
        with pytest.raises(EngineError, match="unsupported architecture"):
            export(trained, "gguf:f16", "ollama:again")
        monkeypatch.setattr(produce, "prove", None)
        monkeypatch.setattr(produce, "write_gguf", None)
        ollama.refuse_create = ""
        events = export(trained, "gguf:f16", "ollama:again")
        assert "again:latest" in ollama.models
    assert f"proof from {trained / 'export' / 'proof.json'}, unchanged: holds" in said(events)


def test_a_proof_that_failed_is_not_measured_again_either(trained, monkeypatch):
    for _ in range(2):
        with pytest.raises(CheckFailed, match=r"mean KL .* \(at most 1e-12\)"):
            export(trained, "gguf:f16", limits={"f16": {"kl": 1e-12}})
        monkeypatch.setattr(produce, "prove", None)


def exporting_of(run: Path, overrides: dict[str, Any] | None = None) -> Any:
    folder, recipe = stages.open_run(run, None, overrides)
    return Work(folder, recipe, lambda: False, lambda _: None).exporting()


@pytest.mark.parametrize("file", ["export/sums-f16.gguf", "adapter/adapter_config.json", "dataset/test.jsonl"])
def test_a_proof_holds_no_longer_when_a_file_has_changed_that_decides_it(trained, file):
    export(trained, "gguf:f16")
    assert exporting_of(trained).is_there(Formats(("f16",)))
    before = (trained / file).read_bytes()
    (trained / file).write_bytes(before + b"\n")
    try:
        assert not exporting_of(trained).is_there(Formats(("f16",)))
    finally:
        (trained / file).write_bytes(before)


def test_a_proof_holds_no_longer_for_other_limits_or_another_base(trained):
    export(trained, "gguf:f16")
    limits = exporting_of(trained, {"export.proof.limits": {"f16": {"kl": 1e-4}}})
    base = exporting_of(trained)
    base.base = replace(base.base, hash="0" * 64)
    for exporting in (limits, base):
        assert not exporting.is_there(Formats(("f16",)))


def test_prove_always_measures(trained):
    export(trained, "gguf:f16")
    told: list[Progress] = []
    events = list(stages.prove(RunFolder(trained), [trained / "export" / "sums-f16.gguf"], told.append))
    assert [event.message for event in events] == ["proof holds"]
    assert "answers of the file" in said(told)


def test_a_coarse_kind_that_fails_is_answered_by_a_fine_one_that_held(trained):
    with pytest.raises(CheckFailed, match=r"sums-q8_0.gguf .* mean KL .* \(at most 1e-12\): .*; take f16, which held"):
        export(trained, "gguf:q8_0", "gguf:f16", limits={"q8_0": {"kl": 1e-12}})
    unwritten(trained, "q8_0")


def test_an_export_stops_in_the_middle_when_it_is_told_to_and_leaves_no_half_file(trained):
    told: list[Progress] = []
    folder, recipe = stages.open_run(trained, None, {"export.formats": ["gguf:q8_0"]})
    events = list(stages.run(folder, recipe, stages=("export",), stop=lambda: len(told) > 1, notify=told.append))
    assert [event.event for event in events] == ["stage"]
    assert not list((trained / "export").glob("*q8_0*"))
    assert export(trained, "gguf:q8_0")[-1].event == "end"


def test_every_other_format_is_written(trained):
    export(trained, "lora", "merged", "mlx", "mlx-lora")
    made = {p.name for p in (trained / "export").iterdir()}
    assert {"sums-lora.gguf", "merged", "mlx-4bit", "mlx-lora"} <= made
    assert (trained / "export" / "merged" / "model.safetensors").exists()


def test_ollama_gets_the_proved_file_and_is_asked_a_held_out_question(trained, tmp_path, monkeypatch):
    with FakeOllama(tmp_path) as ollama:
        ollama.answer = lambda model, request: f"{model.system} {request['messages'][-1]['content']}"
        monkeypatch.setenv("OLLAMA_HOST", ollama.host)
        events = export(trained, "gguf:f16", "ollama:sums")
        assert ollama.models["sums:latest"].system == "You add."
    [note] = [e.message for e in events if e.event == "note"]
    assert note.startswith("sums answers")
    assert "You add." in note


def test_no_ollama_is_said_and_the_file_stays(trained, monkeypatch):
    export(trained, "gguf:f16")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(EngineError, match="ollama"):
        export(trained, "gguf:f16", "ollama:other")
    assert (trained / "export" / "sums-f16.gguf").exists()


def test_a_file_that_is_not_the_trained_model_is_not_handed_over(trained, tmp_path, monkeypatch):
    real = produce.write_gguf

    def without_adapter(weights: Any, base: Path, *rest: Any, **options: Any) -> None:
        real(produce.Weights(base, None), base, *rest, **options)

    monkeypatch.setattr(produce, "write_gguf", without_adapter)
    with FakeOllama(tmp_path) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.host)
        with pytest.raises(CheckFailed, match="adapter"):
            export(trained, "gguf:bf16", "ollama:wrong")
        assert not ollama.models
    assert not next(p for p in stages.proofs(RunFolder(trained)) if p["gguf"] == "sums-bf16.gguf")["holds"]
    (trained / "export" / "sums-bf16.gguf").unlink()


def test_prove_can_be_run_alone_and_on_another_file(trained, tmp_path):
    export(trained, "gguf:f16")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes((trained / "export" / "sums-f16.gguf").read_bytes())
    assert [e.message for e in stages.prove(RunFolder(trained), [copy])] == ["proof holds"]
    assert "copy.gguf" in {p["gguf"] for p in stages.proofs(RunFolder(trained))}


def test_an_adapter_of_another_base_is_refused_before_a_model_is_loaded(trained, monkeypatch):
    export(trained, "gguf:f16")
    adapter = trained / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    wider = {name: np.repeat(array, 2, axis=-1) if "lora_A" in name else array for name, array in load(before).items()}
    monkeypatch.setattr("tunesmith.engines.choose.open_engine", None)
    adapter.write_bytes(save(wider))
    try:
        for refused in (lambda: export(trained, "gguf:bf16"), lambda: list(stages.prove(RunFolder(trained), []))):
            with pytest.raises(ModelError, match=r"was trained on another base: its .* is 32 x 128"):
                refused()
    finally:
        adapter.write_bytes(before)
    assert not (trained / "export" / "sums-bf16.gguf").exists()


def test_what_ends_an_export_anyway_is_said_before_anything_is_written(trained, tmp_path, monkeypatch):
    unwritten(trained, "bf16")
    monkeypatch.setattr(produce, "write_gguf", None)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(EngineError, match="LM Studio was not found"):
        export(trained, "gguf:bf16", "lmstudio")
    with FakeOllama(tmp_path) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.host)
        ollama.version = "0.5.4"
        with pytest.raises(EngineError, match=r"0\.5\.5 is the least"):
            export(trained, "gguf:bf16", "ollama:old")
    monkeypatch.setattr(produce.prepare, "read", lambda *_: iter(()))
    with pytest.raises(RunError, match="no held-out rows"):
        export(trained, "gguf:bf16")


@pytest.mark.parametrize(
    ("name", "error"), [("gguf:q3", RecipeError), ("ollama", RecipeError), ("ollama:my model", ModelError)]
)
def test_a_format_that_cannot_be_is_said_before_hours_of_training(name, error, tmp_path, tiny_model):
    write_rows(tmp_path / "rows.jsonl", 60)
    write_recipe(tmp_path / "sums.toml", tiny_model, RECIPE)
    run, recipe = stages.open_run(tmp_path / "sums.toml", tmp_path / "run", {"export.formats": [name]})
    with pytest.raises(error):
        list(stages.run(run, recipe))
    assert not run.path.exists()


def test_what_is_no_run_has_nothing_to_prove(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        list(stages.prove(RunFolder(tmp_path), []))


def test_a_damaged_proof_file_is_one_sentence(trained):
    export(trained, "gguf:f16")
    path = trained / "export" / "proof.json"
    before = path.read_bytes()
    path.write_text("[{")
    try:
        with pytest.raises(RunError, match=r"proof\.json is damaged; delete it"):
            export(trained, "gguf:f16")
    finally:
        path.write_bytes(before)


def test_a_run_trained_on_another_base_is_refused(trained, tmp_path):
    run = RunFolder(trained)
    model = run.manifest()["model"]
    run.update_manifest(model={**model, "sha256": "0" * 64})
    try:
        with pytest.raises(RunError, match="another model"):
            export(trained, "merged")
    finally:
        run.update_manifest(model=model)


@pytest.mark.parametrize(
    ("names", "formats"),
    [
        (("gguf",), Formats(("q4_k_m",))),
        (("gguf:q8_0", "gguf:f16", "lora"), Formats(("q8_0", "f16"), lora=True)),
        (("ollama:me/model:7b",), Formats(("q4_k_m",), ollama="me/model:7b")),
        (("lmstudio", "mlx", "merged"), Formats(("q4_k_m",), merged=True, mlx=True, lmstudio=True)),
    ],
)
def test_formats_are_named_in_words(names, formats):
    assert parse_formats(names) == formats


@pytest.mark.parametrize("name", ["guff", "gguf:q3", "lora:x", "ollama", "ollama:"])
def test_an_unknown_format_is_refused(name):
    with pytest.raises(RecipeError):
        parse_formats((name,))


def test_the_command_shows_the_proof_and_puts_one_object_on_stdout(trained, capsys):
    call(["export", str(trained), "--to", "gguf", "--quant", "f16", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["proofs"][0]["holds"]
    call(["prove", str(trained), str(trained / "export" / "sums-f16.gguf")])
    assert "sums-f16.gguf" in capsys.readouterr().out


def test_the_command_shows_which_number_broke_which_limit_and_its_status_is_3(trained, capsys):
    recipe = trained / "recipe.toml"
    before = recipe.read_text()
    recipe.write_text(before.replace("[export.proof.limits]", "[export.proof.limits.q6_k]\nkl = 1e-12"))
    assert recipe.read_text() != before
    try:
        assert exit_status(lambda: call(["export", str(trained), "--quant", "q6_k"])) == 3
        shown = " ".join(capsys.readouterr().out.split())
        assert exit_status(lambda: call(["export", str(trained), "--quant", "q6_k", "--json"])) == 3
        [proof] = json.loads(capsys.readouterr().out)["proofs"]
    finally:
        recipe.write_text(before)
        unwritten(trained, "q6_k")
    assert "> 1e-12" in shown
    assert "sums-q6_k.gguf, model: mean KL" in shown
    assert not proof["holds"]


def test_an_export_that_ends_before_its_proof_shows_no_older_one(trained, capsys, monkeypatch):
    export(trained, "gguf:f16")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert exit_status(lambda: call(["export", str(trained), "mine", "--to", "ollama", "--quant", "f16"])) == 1
    assert "sums-f16.gguf" not in capsys.readouterr().out


def test_the_adapter_alone_is_not_published_as_a_model(trained):
    export(trained, "gguf:f16", "lora")
    published = [path.name for path in hand_over._published(trained / "adapter", trained / "export", "gguf")]
    assert "sums-f16.gguf" in published
    assert "sums-lora.gguf" not in published


def test_a_name_goes_with_ollama_alone(trained):
    with pytest.raises(RecipeError, match="--to ollama NAME"):
        call(["export", str(trained), "--to", "ollama"])
    with pytest.raises(RecipeError, match="takes none"):
        call(["export", str(trained), "name"])


def test_a_kind_of_gguf_goes_with_a_gguf_alone(trained):
    with pytest.raises(RecipeError, match="--to merged takes none"):
        call(["export", str(trained), "--to", "merged", "--quant", "q8_0"])


def test_a_run_without_its_dataset_says_how_to_make_it_again(trained, monkeypatch):
    monkeypatch.setattr(produce.prepare, "read", lambda folder, part: (folder / "gone.jsonl").open())
    with pytest.raises(RunError, match="has no dataset any more; `tunesmith prepare"):
        export(trained, "gguf:bf16")


def test_a_file_that_a_run_exported_is_asked_as_the_run_was_taught(trained, monkeypatch, tmp_path):
    export(trained, "gguf:f16")
    monkeypatch.setattr(answers, "_open_model", lambda label, settings, tokens: SimpleNamespace(system=""))
    monkeypatch.setattr(answers.prepare, "shared_system", lambda dataset: f"as in {dataset.parent.name}")
    assert answers.open_chat(str(trained / "export" / "sums-f16.gguf")).system == "as in sums"
    shutil.copy(trained / "export" / "sums-f16.gguf", tmp_path / "else.gguf")
    assert answers.open_chat(str(tmp_path / "else.gguf")).system == ""
