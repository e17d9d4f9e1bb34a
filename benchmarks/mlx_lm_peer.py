"""The peer: mlx-lm's own trainer (`mlx_lm.tuner.trainer.train`) on MLX's CPU build.

Run by speed.py in an environment of its own:

    python mlx_lm_peer.py MODEL_FOLDER ROWS.json SETTINGS.json

At its default: its own order (rows sorted by length, batches drawn anew each epoch), padding to a multiple of 32 plus
one, logits at every position, no gradient checkpointing, and no clipping of gradients, for it has none. Its order
differs from ours, so held-out losses are alike, not equal. Its AdamW is told to correct the moments' bias, as all
others here do. Tokens are counted as it takes them, padding not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm.tuner.trainer import TrainingArgs, TrainingCallback, default_loss, iterate_batches, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load


class Clock(TrainingCallback):
    """When each step ended. It reports after every one."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_loss_report(self, train_info: dict) -> None:
        self.ends.append(time.monotonic())
        self.losses.append(train_info["train_loss"])


def main() -> None:
    model_folder, rows_file, settings_file = sys.argv[1:4]
    rows, s = json.loads(Path(rows_file).read_text()), json.loads(Path(settings_file).read_text())
    model, _ = load(model_folder)
    model.set_dtype({"bf16": mx.bfloat16, "fp32": mx.float32}[s["precision"]])
    model.freeze()
    keys = {f"self_attn.{m}" for m in s["modules"]}
    shape = {"rank": s["rank"], "scale": s["alpha"] / s["rank"], "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, s["layers"], shape)
    tokens: list[int] = []

    def counted(**kwargs):
        for batch, lengths in iterate_batches(**kwargs):
            tokens.append(int(lengths[:, 1].sum().item()))
            yield batch, lengths

    clock, iterations = Clock(), len(rows["order"]) // s["batch"]
    out = Path(s["out"])
    out.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArgs(
        batch_size=s["batch"], iters=iterations, steps_per_report=1, steps_per_save=iterations + 1,
        adapter_file=str(out / "adapters.safetensors"),
    )  # fmt: skip
    optimizer = optim.AdamW(learning_rate=s["learning_rate"], weight_decay=0.0, bias_correction=True)
    data = [(r["ids"], r["learn"].index(True)) for r in rows["train"]]
    train(model, optimizer, data, args=arguments, iterate_batches=counted, training_callback=clock)
    seconds = [end - began for began, end in zip(clock.ends, clock.ends[1:], strict=False)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({
        "steps": list(zip(seconds, tokens[1:], strict=False)), "losses": clock.losses, "memory": memory,
        "valid": held_out(model, rows["valid"]),
    }))  # fmt: skip


def held_out(model, rows: list[dict]) -> float:
    """Negative log-likelihood per learned token, in nats."""
    loss = learned = 0.0
    model.eval()
    for row in rows:
        span = mx.array([[row["learn"].index(True), len(row["ids"]) - 1]])
        mean, count = default_loss(model, mx.array([row["ids"]]), span)
        loss, learned = loss + mean.item() * count.item(), learned + count.item()
    return loss / learned


main()
