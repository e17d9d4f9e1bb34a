"""tunesmith's side of speed.py: the same arguments and the same JSON as trl_peer.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tunesmith.dataset.store import Tokens
from tunesmith.dataset.tokens import Sequence
from tunesmith.engines.base import LoraShape, StepSettings
from tunesmith.engines.choose import open_engine
from tunesmith.models.architecture import read_architecture
from tunesmith.sources.example import Example, Origin
from tunesmith.training.loop import make_batch, mean_loss
from tunesmith.training.order import Order
from tunesmith.training.prefix import Plan


def main() -> None:
    folder, rows_file, settings_file = (Path(a) for a in sys.argv[1:4])
    rows, s = json.loads(rows_file.read_text()), json.loads(settings_file.read_text())
    train, valid = (tokens(rows[part]) for part in ("train", "valid"))
    arch = read_architecture(folder)
    below = arch.layers - s["layers"]
    engine = open_engine(folder, arch, "auto", "bf16", below)
    engine.add_adapter(LoraShape(s["rank"], s["alpha"], 0.0, tuple(s["modules"]), s["layers"]), 0)
    prefix, began = None, time.monotonic()
    if below:
        ids = [part[i][0] for part in (train, valid) for i in range(len(part))]
        plan = Plan("train", "benchmark", below, arch.width, ids, s["epochs"])
        prefix = yield_from(plan.carry_out(engine, lambda: False))
    filled = time.monotonic() - began
    order = Order(len(train), s["batch"], 0)
    losses, trained, began = [], 0, time.monotonic()
    for step in range(1, s["epochs"] * order.steps_per_epoch + 1):
        batch = make_batch(train, order.rows(step), prefix)
        losses.append(engine.step([batch], StepSettings(step, s["learning_rate"])).loss)
        trained += batch.tokens if step > 1 else 0
        began = time.monotonic() if step == 1 else began
    seconds = time.monotonic() - began
    print(json.dumps({
        "seconds": seconds, "prefix_seconds": filled, "tokens": trained, "losses": losses, "memory": engine.memory(),
        "valid": mean_loss(engine, valid, s["batch"], prefix=prefix),
    }))  # fmt: skip


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
