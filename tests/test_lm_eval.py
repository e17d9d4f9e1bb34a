"""`tunesmith lm-eval`, against a stand-in that takes lm-eval's own arguments and no others, and writes its results as
lm-eval does (0.4.9 to 0.4.12)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tunesmith.cli.app import call
from tunesmith.cli.edge import exit_status
from tunesmith.engines.adapter import fresh
from tunesmith.engines.base import LoraShape
from tunesmith.export import lm_eval
from tunesmith.models.architecture import read_architecture
from tunesmith.models.find import find
from tunesmith.run import RunFolder
from tunesmith.settings import make_recipe
from tunesmith.training.checkpoints import adapter_config

pytestmark = pytest.mark.usefixtures("fresh_consoles")

STAND_IN = """
import argparse, json, os, pathlib, re, sys

KNOWN = {"arc_easy", "mmlu"}
parser = argparse.ArgumentParser(prog="lm-eval", allow_abbrev=False)
parser.add_argument("--model", required=True, choices=["hf"])
parser.add_argument("--model_args", required=True)
parser.add_argument("--tasks", required=True)
parser.add_argument("--output_path", required=True)
parser.add_argument("--limit", type=float)
parser.add_argument("--batch_size", default="1")
parser.add_argument("--apply_chat_template", nargs="?", const=True, default=False)
args = parser.parse_args()
given = dict(pair.split("=") for pair in args.model_args.split(","))
assert set(given) == {"pretrained", "dtype"}, given
assert given["dtype"] in ("float32", "bfloat16"), given
folder = pathlib.Path(given["pretrained"])
config = json.loads((folder / "config.json").read_text())
assert config["architectures"] == ["LlamaForCausalLM"] and not list(folder.glob("*.py"))
assert (folder / "tokenizer.json").exists()
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
tasks = args.tasks.split(",")
print("2026-01-01 INFO     [evaluator:202] Setting random seed to 0", file=sys.stderr)
if missing := [task for task in tasks if task not in KNOWN]:
    raise ValueError(f"Tasks not found: {', '.join(missing)}")
print("\\rRunning loglikelihood requests:  50%|█████     | 5/10 [00:01<00:01]", end="", file=sys.stderr)

raw = (folder / "model.safetensors").read_bytes()
right = 0.25 + (sum(raw) % 1000) / 4000  # another score for other weights
results, subtasks, counts = {}, {}, {}
for task in tasks:
    results[task] = {"alias": task, "acc,none": right, "acc_stderr,none": 0.01, "perplexity,none": 9.0,
                     "perplexity_stderr,none": "N/A", "name": task, "sample_len": 10}
    counts[task] = {"original": 100, "effective": int(args.limit or 100)}
    subtasks[task] = []
if "mmlu" in tasks:
    subtasks["mmlu"] = ["mmlu_law"]
    results["mmlu_law"] = {"alias": " - law", "acc,none": right, "acc_stderr,none": 0.02}
place = pathlib.Path(args.output_path) / re.sub(r"[\\"<>:/|\\\\?*\\[\\]]+", "__", given["pretrained"])
place.mkdir(parents=True)
(place / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps({
    "results": results, "group_subtasks": subtasks, "n-samples": counts, "versions": {}, "n-shot": {},
    "higher_is_better": {task: {"acc": True, "perplexity": False} for task in tasks}, "configs": {"much": "more"},
    "lm_eval_version": "0.4.12", "config": {"model": "hf"},
}))
"""


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> RunFolder:
    """A trained run, whose folder has a name that no list of arguments could hold."""
    folder = RunFolder(tmp_path / "a, b=中文")
    recipe = make_recipe({"model": {"name": str(tiny_model)}, "data": {"sources": ["rows.jsonl"]}})
    folder.save_recipe(recipe)
    folder.update_manifest(model={"name": recipe.model.name, "sha256": find(str(tiny_model)).hash})
    train(folder, tiny_model, 1)
    return folder


def train(folder: RunFolder, model: Path, seed: int) -> None:
    architecture, shape = read_architecture(model), LoraShape(2)
    arrays = {name: array + np.float32(0.1 * seed) for name, array in fresh(architecture, shape, seed).items()}
    folder.adapter.mkdir(exist_ok=True)
    save_file(arrays, folder.adapter / "adapter_model.safetensors", {"format": "pt"})
    config = adapter_config(shape, architecture.layers, str(model))
    (folder.adapter / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lm-eval is installed; what it is called with stands in this file."""
    package = tmp_path / "installed" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def tunesmith(*tokens: str) -> int:
    return exit_status(lambda: call(tokens))


def test_base_and_tuned_are_measured_alike_and_kept(run, calls, capsys):
    assert tunesmith("lm-eval", str(run), "arc_easy", "mmlu", "--limit", "10", "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    first, second = (json.loads(line) for line in calls.read_text().splitlines())
    assert [word.replace("./base", "./tuned") for word in first] == second
    assert first[:2] == ["--model", "hf"]
    assert first[first.index("--limit") + 1] == "10"
    assert not [word for word in first if "trust" in word or "unsafe" in word]

    rows = {(row["task"], row["metric"]): row for row in outcome["scores"]}
    row = rows["arc_easy", "acc"]
    assert row["base"]["score"] != row["tuned"]["score"]
    assert (row["base"]["stderr"], row["n"], row["part"]) == (0.01, 10, False)
    assert rows["mmlu_law", "acc"]["part"] is True
    assert rows["arc_easy", "perplexity"]["tuned"] == {"score": 9.0, "stderr": None}
    kept = json.loads((run.evaluation / "lm-eval.json").read_text())
    assert kept[0]["scores"] == outcome["scores"]
    assert kept[0]["models"]["tuned"]["lm_eval_version"] == "0.4.12"
    assert "configs" not in kept[0]["models"]["tuned"]
    assert sorted(path.name for path in run.evaluation.iterdir()) == ["lm-eval.json", "lm-eval.log"]


def test_what_was_measured_is_not_measured_again_and_other_tasks_stay(run, calls, capsys, tiny_model):
    for tokens in (["arc_easy"], ["arc_easy"], ["mmlu"], ["arc_easy", "--chat"]):
        assert tunesmith("lm-eval", str(run), *tokens) == 0
    assert len(calls.read_text().splitlines()) == 6
    assert "--apply_chat_template" in calls.read_text().splitlines()[-1]
    assert [entry["tasks"] for entry in json.loads((run.evaluation / "lm-eval.json").read_text())] == [
        ["arc_easy"], ["mmlu"], ["arc_easy"],
    ]  # fmt: skip
    train(run, tiny_model, 2)
    assert tunesmith("lm-eval", str(run), "arc_easy") == 0
    again = [json.loads(line)[3] for line in calls.read_text().splitlines()[6:]]
    assert [word.partition(",")[0] for word in again] == ["pretrained=./tuned"]


def test_the_table_has_both_with_their_errors_and_groups_without_parts(run, calls, capsys):
    assert tunesmith("lm-eval", str(run), "mmlu", "--limit", "5") == 0
    shown = capsys.readouterr().out
    assert "± 0.0100" in shown
    assert "mmlu_law" not in shown
    assert "Only the first 5 questions" in shown


def test_what_lm_eval_says_of_a_failure_is_passed_on(run, calls, capsys):
    assert tunesmith("lm-eval", str(run), "arc_esay") == 1
    said = capsys.readouterr().err
    assert "lm-eval failed on base: ValueError: Tasks not found: arc_esay;" in said
    assert "Setting random seed" in (run.evaluation / "lm-eval.log").read_text()
    assert not (run.evaluation / "lm-eval.json").exists()
    assert not list(run.evaluation.glob(".*"))


def test_without_lm_eval_one_sentence_says_how_to_get_it(run, monkeypatch, capsys):
    monkeypatch.setattr(lm_eval, "PACKAGE", "lm_eval_that_is_not_there")
    monkeypatch.setattr(lm_eval, "COMMANDS", ())
    assert tunesmith("lm-eval", str(run), "arc_easy") == 1
    assert (
        capsys.readouterr().err == 'tunesmith: lm-eval is not installed; install it with: pip install "lm_eval[hf]"\n'
    )


def test_a_run_of_another_base_or_without_adapter_is_refused_before_anything_is_measured(run, calls, capsys):
    run.update_manifest(model={"sha256": "another"})
    assert tunesmith("lm-eval", str(run), "arc_easy") == 1
    assert "was trained on another model" in capsys.readouterr().err
    run.update_manifest(model=None)
    (run.adapter / "adapter_config.json").unlink()
    assert tunesmith("lm-eval", str(run), "arc_easy") == 1
    assert "train first" in capsys.readouterr().err
    assert not calls.exists()


def test_a_line_of_progress_is_read_as_tqdm_writes_it():
    line = "Running loglikelihood requests:  12%|█▏        | 48/400 [00:03<00:22, 15.85it/s]"
    assert lm_eval.BAR.findall(line) == [("Running loglikelihood requests", "48", "400")]
