"""No dead options: changing any setting changes what happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import write_rows

from tunesmith import stages
from tunesmith.engines import choose
from tunesmith.errors import TunesmithError
from tunesmith.run import RunFolder
from tunesmith.settings import every_field, make_recipe

CHANGES: dict[str, Any] = {
    "cluster.address": "127.0.0.1:1",
    "model.name": "starter-that-is-not-there",
    "model.engine": "mlx",
    "model.precision": "bf16",
    "data.sources": ["other.jsonl"],
    "data.folder": "elsewhere",
    "data.split.valid": 0.4,
    "data.split.test": 0.4,
    "data.system": "You add.",
    "data.ask": "{title}?",
    "data.clean.duplicates": "keep",
    "data.clean.near_duplicates": "drop",
    "data.clean.similarity": 0.99,
    "data.clean.conflicts": "drop",
    "data.clean.boilerplate": "keep",
    "data.clean.redact": ["email"],
    "data.max_tokens": 36,
    "data.seed": 1,
    "train.epochs": 2,
    "train.steps": 3,
    "train.batch": 8,
    "train.micro_batch": 1,
    "train.learning_rate": 0.02,
    "train.schedule": "linear",
    "train.warmup": 0.4,
    "train.weight_decay": 0.5,
    "train.clip": 0.01,
    "train.layers": 1,
    "train.prefix": "off",
    "train.fit": "off",
    "train.lora.rank": 3,
    "train.lora.alpha": 3.0,
    "train.lora.dropout": 0.5,
    "train.lora.modules": ["q_proj"],
    "train.validate_every": 2,
    "train.save_minutes": 1e-6,
    "train.patience": 1,
    "train.seed": 1,
    "train.trackers": ["tensorboard"],
    "evaluate.tasks": [{"kind": "sql", "database": "shop.sql"}],
    "evaluate.checkpoints": False,
    "evaluate.forgetting": False,
    "evaluate.retrieval": 1,
    "evaluate.max_new_tokens": 3,
    "evaluate.batch": 1,
    "export.formats": ["lora"],
    "export.proof.tokens": 16,
    "export.proof.prompts": 1,
    "export.proof.questions": 2,
    "export.proof.limits": {"f16": {"kl": 1e-12}},
}
BASE = {
    "data": {"sources": ["rows.jsonl"]},
    "train": {"epochs": 1, "batch": 4, "learning_rate": 0.01},
    "evaluate": {"tasks": ["loss", {"kind": "sql", "database": "shop.sql"}], "max_new_tokens": 6},
}
DIRTY: dict[str, Any] = {"data.sources": ["dirty.jsonl"], "evaluate.tasks": ["loss"]}
NOTES: dict[str, Any] = {"data.sources": ["notes"], "evaluate.tasks": ["loss"]}
PROVED: dict[str, Any] = {"export.formats": ["gguf:f16"], "data.split.test": 0.4}
CONTEXT: dict[str, dict[str, Any]] = {
    **dict.fromkeys((f"export.proof.{name}" for name in ("tokens", "prompts", "questions", "limits")), PROVED),
    "data.ask": NOTES,
    "data.clean.boilerplate": NOTES,
    "data.clean.duplicates": DIRTY,
    "data.clean.near_duplicates": DIRTY,
    "data.clean.similarity": {**DIRTY, "data.clean.near_duplicates": "drop"},
    "data.clean.conflicts": DIRTY,
    "data.clean.redact": DIRTY,
    "train.prefix": {"train.layers": 1, "train.epochs": 3},
    "train.patience": {"train.learning_rate": 2.0, "train.validate_every": 1, "train.epochs": 3},  # it gets worse
    "train.save_minutes": {"train.validate_every": 4},  # validations save too
}


class Watched:
    """An engine that notes how it was called."""

    def __init__(self, engine: Any, calls: list[Any]) -> None:
        self._engine, self._calls = engine, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, batches: Any, settings: Any) -> Any:
        self._calls.append(("step", [b.ids.shape for b in batches]))
        return self._engine.step(batches, settings)

    def generate(self, prompts: Any, **options: Any) -> Any:
        self._calls.append(("generate", len(prompts), options["max_new_tokens"]))
        return self._engine.generate(prompts, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of rows in which the answer is SQL, and a database."""
    made = tmp_path_factory.mktemp("alive")
    for name, count in (("rows.jsonl", 24), ("other.jsonl", 30)):
        rows = [{"prompt": f"{i} + 1?", "completion": f"SELECT {i} + 1"} for i in range(count)]
        (made / name).write_text("\n".join(json.dumps(row) for row in rows))
    long = "A long answer, which two rows give almost alike, and which nobody would miss if it were given once"
    dirty = [*rows, rows[0], {**rows[1], "completion": "another"}, {"prompt": "who?", "completion": "a.b@example.com"},
             *({"prompt": f"why {i}?", "completion": long + end} for i, end in enumerate((".", "!")))]  # fmt: skip
    (made / "dirty.jsonl").write_text("\n".join(json.dumps(row) for row in dirty))
    (made / "notes").mkdir()
    for i in range(30):
        (made / "notes" / f"{i}.md").write_text(f"# Note {i}\n\nIt says {i * i}.\n\nWritten by the same hand")
    (made / "shop.sql").write_text("CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    (made / "elsewhere").mkdir()
    write_rows(made / "elsewhere" / "rows.jsonl")
    return made


def observe(folder: Path, model: Path, run: Path, overrides: dict[str, Any]) -> Any:
    """Everything a run leaves behind but times: rows, events, adapter, results, and how the engine was called."""
    calls: list[Any] = []
    real = choose.open_engine

    def watched(*arguments: Any) -> Any:
        calls.append(choose.engine_name(arguments[2]))
        return Watched(real(*arguments), calls)

    named = {"model.name": str(model), "model.engine": "torch", "model.precision": "fp32", **overrides}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "open_engine", watched)
        patch.setenv("TUNESMITH_CACHE", f"{run}-cache")  # what one run keeps of frozen layers spares the next one work
        try:
            recipe = make_recipe(BASE, named, folder=folder)
            events = [
                (e.event, e.step, e.loss, e.learning_rate, e.gradient_norm, e.message.replace(str(run), "RUN"))
                for e in stages.run(RunFolder(run), recipe)
            ]
        except TunesmithError as error:
            return str(error)
    left = {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*"))
            if p.name in ("train.jsonl", "valid.jsonl", "test.jsonl", "report.json", "results.json", "samples.jsonl",
                          "adapter_model.safetensors", "adapter_config.json")}  # fmt: skip
    files = sorted(p.name.replace(run.name, "") for p in (run / "export").glob("*"))
    return calls, events, left, _proofs(run), files, (run / "tensorboard").exists()


def _proofs(run: Path) -> list[Any]:
    of_this_run = ("gguf", "sha256", "inputs", "seconds")  # the run's name is in the file
    return [{k: v for k, v in proof.items() if k not in of_this_run} for proof in stages.proofs(RunFolder(run))]


@pytest.fixture(scope="module")
def unchanged() -> dict[str, Any]:
    return {}


def test_every_setting_is_in_the_list():
    others = {name for name in every_field() if name.startswith("teacher.")}  # tests/teacher/test_teacher_alive.py
    assert set(CHANGES) == set(every_field()) - others


@pytest.mark.parametrize("name", list(CHANGES))
def test_changing_it_changes_what_happens(name, folder, tiny_model, tmp_path, unchanged):
    context = CONTEXT.get(name, {})
    key = str(context)
    if key not in unchanged:
        unchanged[key] = observe(folder, tiny_model, tmp_path / "base", context)
        again = observe(folder, tiny_model, tmp_path / "again", context)
        assert unchanged[key] == again, "the same settings give the same run, or this test says nothing"
    changed = observe(folder, tiny_model, tmp_path / "changed", {**context, name: CHANGES[name]})
    assert changed != unchanged[key]
