"""SIGKILL at any moment loses nothing: the adapter comes out byte for byte as without it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny_chat import write_recipe, write_rows

from tunesmith.files import file_hash
from tunesmith.run import RunFolder

RECIPE = """
[train]
epochs = 12
batch = 4
learning_rate = 1e-2
validate_every = 6
save_minutes = 0.0005
fit = "off"
lora = {rank = 4, dropout = 0.1}
"""

CHILD = """
import sys
from pathlib import Path
from tunesmith import stages
folder, recipe = stages.open_run(Path(sys.argv[1]), Path(sys.argv[2]))
for progress in stages.run(folder, recipe, stages=("prepare", "train")):
    print(progress.event, flush=True)
"""


def start(recipe: Path, run: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(recipe), str(run)], stdout=subprocess.PIPE, env=environment
    )


def finish(recipe: Path, run: Path) -> str:
    child = start(recipe, run)
    child.communicate()
    assert child.returncode == 0
    return file_hash(run / "adapter" / "adapter_model.safetensors")


def kill_somewhere(recipe: Path, run: Path, rng: random.Random, writing: bool) -> None:
    """Let it come to training, go on for a random while, and kill it; with ``writing``, in the middle of a save."""
    child = start(recipe, run)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(b"step"):
            break
    if writing:
        deadline = time.monotonic() + 5
        while (
            not list((run / "checkpoints").glob(".step-*.tmp")) and time.monotonic() < deadline and child.poll() is None
        ):
            pass
        time.sleep(rng.uniform(0, 0.002))
    else:
        time.sleep(rng.uniform(0, 0.25))
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_twenty_kills_leave_the_same_adapter(tmp_path, tiny_model):
    write_rows(tmp_path / "rows.jsonl", 100)
    recipe = tmp_path / "sums.toml"
    write_recipe(recipe, tiny_model, RECIPE)
    expected = finish(recipe, tmp_path / "whole")
    rng, run = random.Random(0), tmp_path / "killed"
    for kill in range(20):
        kill_somewhere(recipe, run, rng, writing=kill % 2 == 0)
    assert finish(recipe, run) == expected
    steps = [e.step for e in RunFolder(run).events() if e.event == "step"]
    assert steps == list(range(1, len(steps) + 1)), "each step is recorded once, whatever was killed"
    assert not list(run.rglob(".*.tmp"))
