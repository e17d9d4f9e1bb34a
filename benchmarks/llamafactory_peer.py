"""The peer: LLaMA-Factory's `run_exp`, driven as its command line does, on the same rows as text.

Run by speed.py in an environment of its own:

    python llamafactory_peer.py MODEL_FOLDER ROWS.json SETTINGS.json

It takes no token ids, so each row is given as the text of its prompt and of its answer, special tokens written out,
under the template "empty", which adds nothing. Tokens are counted in the data set that it makes of them itself; a
row that came out otherwise than ours ends the measurement. Rows come in our order, all epochs one after another.

At its default: padding to a multiple of 8, data loading, mixed precision. Chosen because it is faster: no gradient
checkpointing and the plain attention, see trl_peer.py.

It imports torchvision and torchaudio, whose usual builds are for CUDA and do not load beside a CPU's torch. Text needs
neither: one that does not load counts as not there.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


def without_unloadable() -> None:
    for name in ("torchvision", "torchaudio"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):
            sys.modules[name] = None
    if sys.modules["torchaudio"] is None:  # the one that is imported unasked
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)


without_unloadable()

from measured import Clock  # noqa: E402


class OwnRows(Clock):
    """Keeps hold of the rows as LLaMA-Factory tokenized them."""

    rows: list[dict]

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.rows = [{"ids": r["input_ids"], "labels": r["labels"]} for r in train_dataloader.dataset]


def main() -> None:
    from llamafactory.train.tuner import run_exp
    from transformers import AutoConfig, AutoTokenizer

    model_folder, rows_file, settings_file = sys.argv[1:4]
    rows, s = json.loads(Path(rows_file).read_text()), json.loads(Path(settings_file).read_text())
    taken = [rows["train"][i] for i in rows["order"]]
    folder = Path(s["out"])
    write_data(folder, AutoTokenizer.from_pretrained(model_folder), taken)
    layers = AutoConfig.from_pretrained(model_folder).num_hidden_layers
    targets = [f"layers.{i}.self_attn.{m}" for i in range(layers - s["layers"], layers) for m in s["modules"]]
    clock = OwnRows()
    run_exp({
        "model_name_or_path": model_folder, "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": s["rank"], "lora_alpha": s["alpha"], "lora_dropout": 0.0, "lora_target": ",".join(targets),
        "dataset": "rows", "dataset_dir": str(folder), "template": "empty", "cutoff_len": 1 << 16,
        "output_dir": str(folder / "out"), "per_device_train_batch_size": s["batch"], "num_train_epochs": 1.0,
        "learning_rate": s["learning_rate"], "lr_scheduler_type": "constant", "max_grad_norm": 1.0,
        "bf16": s["precision"] == "bf16", "use_cpu": True, "disable_shuffling": True,
        "disable_gradient_checkpointing": True, "flash_attn": "disabled",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "overwrite_cache": True, "seed": 0,
    }, [clock])  # fmt: skip
    compare(taken, clock.rows)
    print(clock.result([len(r["ids"]) for r in clock.rows], s["batch"], rows["valid"]))


def write_data(folder: Path, tokenizer, rows: list[dict]) -> None:
    """Rows as instruction and output, and the file that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for row in rows:
        first = row["learn"].index(True)
        prompt, answer = (tokenizer.decode(ids) for ids in (row["ids"][:first], row["ids"][first:]))
        texts.append({"instruction": prompt, "input": "", "output": answer})
    (folder / "rows.json").write_text(json.dumps(texts))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))


def compare(ours: list[dict], theirs: list[dict]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        if mine["ids"] != other["ids"] or sum(mine["learn"]) != sum(label >= 0 for label in other["labels"]):
            raise SystemExit(f"a row of {len(mine['ids'])} tokens became another of {len(other['ids'])}")


main()
