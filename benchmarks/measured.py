"""What the peers built on transformers' Trainer have in common: the clock, the loss on rows kept out, the result."""

from __future__ import annotations

import json
import resource
import time

import torch
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """When each optimizer step ended, and the model that came out."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.model = None

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.monotonic())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.model = model

    def result(self, lengths: list[int], batch: int, valid: list[dict]) -> str:
        """JSON of one training over rows of these lengths, in the order they were taken; padding is not counted.

        steps: [seconds, tokens] of all but the first, in which a program may still be setting itself up.
        """
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        tokens = [sum(lengths[i : i + batch]) for i in range(0, len(lengths), batch)]
        seconds = [end - began for began, end in zip(self.ends, self.ends[1:], strict=False)]
        return json.dumps({
            "steps": list(zip(seconds, tokens[1:], strict=True)), "losses": self.losses, "memory": memory,
            "valid": held_out(self.model, valid),
        })  # fmt: skip


@torch.no_grad()
def held_out(model, rows: list[dict]) -> float:
    """Negative log-likelihood per learned token, in nats."""
    loss, learned = 0.0, 0
    model.eval()
    for row in rows:
        ids, learn = torch.tensor([row["ids"]]), torch.tensor(row["learn"])[1:]
        logits = model(input_ids=ids).logits[0, :-1].float()
        loss += float(torch.nn.functional.cross_entropy(logits[learn], ids[0, 1:][learn], reduction="sum"))
        learned += int(learn.sum())
    return loss / learned
