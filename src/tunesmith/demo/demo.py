"""The whole road on the starter model and the shop sample."""

from __future__ import annotations

from pathlib import Path

from tunesmith import files
from tunesmith.demo.shop import write_sample

ROWS = 1000
"""Enough: at 800 rows the sample is learned to 97 %."""
RECIPE = """\
# What `tunesmith demo` runs: questions about a small shop, answered in SQL.
[model]
name = "starter"

[data]
sources = ["train.jsonl"]
split = {valid = 0.04, test = ["test.jsonl"]}
max_tokens = 256
clean = {near_duplicates = "ignore"}   # the questions come from patterns: many are alike, with other values

[train]
epochs = 1
batch = 8
learning_rate = 1e-3
validate_every = 40
lora = {rank = 16, alpha = 32}

[evaluate]
tasks = ["loss", {kind = "sql", database = "shop.sql"}]
max_new_tokens = 64
"""


def prepare_demo(folder: Path) -> Path:
    """Write the sample's rows, its database and the recipe into ``folder``; return the recipe's path."""
    write_sample(folder, train=ROWS)
    recipe = folder / "shop.toml"
    files.write_text(recipe, RECIPE)
    return recipe
