"""tunesmith's side of speed.py: the arguments and the JSON of the peers, with what its work needed beside it.

    python own.py MODEL_FOLDER ROWS.json SETTINGS.json

The settings name the engine and the precision. The frozen layers' pass over the training rows is timed apart.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from multiply import Arithmetic

from tunesmith.dataset.store import Tokens
from tunesmith.dataset.tokens import Sequence
from tunesmith.engines.base import LoraShape, StepSettings
from tunesmith.engines.choose import open_engine
from tunesmith.models.architecture import read_architecture
from tunesmith.sources.example import Example, Origin
from tunesmith.training.loop import make_batch, mean_loss
from tunesmith.training.prefix import Plan


def main() -> None:
    folder, rows_file, settings_file = (Path(a) for a in sys.argv[1:4])
    rows, s = json.loads(rows_file.read_text()), json.loads(settings_file.read_text())
    train, valid = (tokens(rows[part]) for part in ("train", "valid"))
    arch = read_architecture(folder)
    below = arch.layers - s["layers"]
    engine = open_engine(folder, arch, s["engine"], s["precision"], below)
    engine.add_adapter(LoraShape(s["rank"], s["alpha"], 0.0, tuple(s["modules"]), s["layers"]), 0)
    prefix, began = None, time.monotonic()
    if below:
        ids = [train[i][0] for i in range(len(train))]
        plan = Plan("train", "benchmark", below, arch.width, ids, s["epochs"])
        prefix = yield_from(plan.carry_out(engine, lambda: False))
    filled = time.monotonic() - began
    work = Arithmetic(arch, s["modules"], s["rank"], s["layers"])
    once = sum(work.below(int(length)) for length in train.lengths) if prefix else 0.0
    batches = [rows["order"][i : i + s["batch"]] for i in range(0, len(rows["order"]), s["batch"])]
    losses, steps, needed = [], [], 0.0
    for step, taken in enumerate(batches, 1):
        began = time.monotonic()
        batch = make_batch(train, taken, prefix)
        losses.append(engine.step([batch], StepSettings(step, s["learning_rate"])).loss)
        if step > 1:
            steps.append((time.monotonic() - began, batch.tokens))
            needed += sum(step_work(work, train, row, again=prefix is None) for row in taken)
    print(json.dumps({
        "steps": steps, "prefix_seconds": filled, "prefix_operations": once, "operations": needed, "losses": losses,
        "memory": engine.memory(), "valid": mean_loss(engine, valid, s["batch"]) if len(valid) else None,
    }))  # fmt: skip


def step_work(work: Arithmetic, train: Tokens, row: int, *, again: bool) -> float:
    """Operations that one row needs in one step; ``again`` where it goes through the frozen layers too."""
    ids, learn = train[row]
    return work.above(len(ids), int(learn.sum())) + (work.below(len(ids)) if again else 0.0)


def tokens(rows: list[dict]) -> Tokens:
    nothing = Example((), Origin(""))
    return Tokens.of(Sequence(row["ids"], row["learn"], nothing) for row in rows)


def yield_from(steps):
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


main()
