"""tunesmith's side of speed.py: the same arguments and the same JSON as trl_peer.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from tunesmith.engines.base import Batch, LoraShape, StepSettings
from tunesmith.engines.choose import open_engine
from tunesmith.models.architecture import read_architecture
from tunesmith.training.order import Order


def main() -> None:
    folder, rows_file, settings_file = (Path(a) for a in sys.argv[1:4])
    rows = json.loads(rows_file.read_text())
    s = json.loads(settings_file.read_text())
    engine = open_engine(folder, read_architecture(folder), "auto", "bf16")
    layers = s["layers_to_transform"]
    engine.add_adapter(LoraShape(s["rank"], s["alpha"], 0.0, tuple(s["modules"]), layers and len(layers)), 0)
    order = Order(np.array([len(r["ids"]) for r in rows]), s["batch"], 0)
    losses, tokens, began = [], 0, 0.0
    for step in range(1, s["steps"] + 1):
        if step == 2:
            began = time.monotonic()
        batch = Batch.of([(rows[i]["ids"], rows[i]["learn"]) for i in order.rows(step)])
        losses.append(engine.step([batch], StepSettings(step, s["learning_rate"])).loss)
        tokens += batch.tokens if step > 1 else 0
    print(
        json.dumps({"seconds": time.monotonic() - began, "tokens": tokens, "losses": losses, "memory": engine.memory()})
    )


main()
