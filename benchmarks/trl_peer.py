"""The peer: TRL's SFTTrainer with PEFT, on rows given as token ids.

Run by speed.py in an environment of its own:

    python trl_peer.py MODEL_FOLDER ROWS.json SETTINGS.json

Rows come in our order, all epochs one after another ("sequential", one epoch), so that losses can be compared; rows of
like length are together there, which spares it padding.

At its default: mixed precision on top of the model's bf16 (``bf16=True``), adapter in float32, its own chunked loss,
fused AdamW, clipping at 1, no padding to a multiple. Chosen because it is faster, in CPU seconds of one thread on 24
rows, two epochs (which other work disturbs less than time on the clock), tokens a second:

    layers that learn                                        30      4
    defaults (gradient checkpointing, attention sdpa)        85    100
    without gradient checkpointing                          122    179
    and attention "eager": what is measured here            135    204
    and rows padded to a multiple of 16                     134
    and bf16=False                                          122

One run of each, one after another beside other work; "eager" with 4 layers gave 152 when repeated under more of it. So
the gain without checkpointing is certain with 4 layers, and what attention adds is within the noise.

Checkpointing is on by default in TRL, and with PEFT it makes the embeddings ask for a gradient: the way back then goes
through all layers, also those below the lowest that learns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from measured import Clock
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    model_folder, rows_file, settings_file = sys.argv[1:4]
    rows, s = json.loads(Path(rows_file).read_text()), json.loads(Path(settings_file).read_text())
    bf16 = s["precision"] == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    taken = [rows["train"][i] for i in rows["order"]]
    data = Dataset.from_list([{"input_ids": r["ids"], "completion_mask": [int(x) for x in r["learn"]]} for r in taken])
    config = SFTConfig(
        output_dir=s["out"], per_device_train_batch_size=s["batch"], num_train_epochs=1,
        train_sampling_strategy="sequential", learning_rate=s["learning_rate"], lr_scheduler_type="constant",
        bf16=bf16, use_cpu=True, gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=1,
        max_length=None, seed=0, completion_only_loss=True, disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(
        r=s["rank"], lora_alpha=s["alpha"], target_modules=s["modules"], task_type="CAUSAL_LM",
        layers_to_transform=list(range(model.config.num_hidden_layers))[-s["layers"] :],
    )  # fmt: skip
    clock = Clock()
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=data, peft_config=lora, processing_class=tokenizer, callbacks=[clock]
    )
    trainer.train()
    print(clock.result([len(r["ids"]) for r in taken], s["batch"], rows["valid"]))


main()
