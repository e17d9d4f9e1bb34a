"""The peer: TRL's SFTTrainer with PEFT at its defaults, on rows given as token ids.

Run by speed.py in an environment of its own:

    python trl_peer.py MODEL_FOLDER ROWS.json SETTINGS.json

Prints one JSON object: seconds of training, tokens (padding not counted), losses, peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Time between the end of the warm-up step and the end of training."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.began = time.monotonic()
        self.ended = time.monotonic()


def main() -> None:
    model_folder, rows_file, settings_file = sys.argv[1:4]
    rows = json.loads(Path(rows_file).read_text())
    settings = json.loads(Path(settings_file).read_text())
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    data = Dataset.from_list(
        [{"input_ids": r["ids"], "completion_mask": [int(x) for x in r["learn"]]} for r in rows["train"]]
    )
    batch = settings["batch"]
    config = SFTConfig(
        output_dir=settings["out"], per_device_train_batch_size=batch, num_train_epochs=settings["epochs"],
        learning_rate=settings["learning_rate"], lr_scheduler_type="constant", bf16=True, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1, max_length=None, seed=0,
        completion_only_loss=True, disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(
        r=settings["rank"], lora_alpha=settings["alpha"], target_modules=settings["modules"], task_type="CAUSAL_LM",
        layers_to_transform=list(range(model.config.num_hidden_layers))[-settings["layers"] :],
    )  # fmt: skip
    clock = Clock()
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=data, peft_config=lora, processing_class=tokenizer, callbacks=[clock]
    )
    total = sum(len(r["ids"]) for r in rows["train"])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({
        "seconds": clock.ended - clock.began,
        "tokens": settings["epochs"] * total * (1 - 1 / trainer.state.global_step),  # all but the first step's
        "valid": held_out(trainer.model, rows["valid"]),
        "losses": losses,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))  # fmt: skip


@torch.no_grad()
def held_out(model, rows) -> float:
    """Negative log-likelihood per learned token, in nats."""
    loss, learned = 0.0, 0
    model.eval()
    for row in rows:
        ids, learn = torch.tensor([row["ids"]]), torch.tensor(row["learn"])[1:]
        logits = model(ids).logits[0, :-1].float()
        loss += float(torch.nn.functional.cross_entropy(logits[learn], ids[0, 1:][learn], reduction="sum"))
        learned += int(learn.sum())
    return loss / learned


main()
