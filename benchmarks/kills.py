"""Does a killed training on several processes come out as if nothing had happened?

    python benchmarks/kills.py [--kills 20] [--processes 2]

A tiny model is trained undisturbed by one process and by several, then by several of which one is killed (SIGKILL) at
a random moment, again and again: a rank, or tunesmith itself; the same command then goes on. (Without torchrun between
them the ranks train to the end.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_chat import write_model, write_recipe, write_rows

RECIPE = """
[train]
epochs = 80
batch = 4
learning_rate = 1e-3
validate_every = 100
save_minutes = 0.002
layers = 1
fit = "off"
lora = {rank = 4}
"""


def start(recipe: Path, run: Path, processes: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tunesmith", "train", str(recipe), "--run", str(run)]
    log = (run.parent / f"{run.name}.log").open("ab")
    return subprocess.Popen([*command, "--processes", str(processes)], stdout=log, stderr=log)


def finish(recipe: Path, run: Path, processes: int) -> dict[str, np.ndarray]:
    if start(recipe, run, processes).wait():
        sys.exit((run.parent / f"{run.name}.log").read_text())
    return load_file(run / "adapter" / "adapter_model.safetensors")


def steps(run: Path) -> list[int]:
    """Every step that progress.jsonl has, as often as it has it."""
    lines = (run / "progress.jsonl").read_text().splitlines() if (run / "progress.jsonl").exists() else []
    return [event["step"] for event in map(json.loads, filter(None, lines)) if event["event"] == "step"]


def victims(child: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """tunesmith, its launcher, and the ranks in their order."""
    (launcher, *_) = psutil.Process(child.pid).children()
    ranks = [p for p in launcher.children() if "tunesmith.stages.rank" in p.cmdline()]
    ranks.sort(key=lambda p: int(p.environ()["RANK"]))
    found = {f"rank {i}": process for i, process in enumerate(ranks)}
    return {"tunesmith": psutil.Process(child.pid), "launcher": launcher, **found}


def kill_one(recipe: Path, run: Path, processes: int, draw: random.Random) -> tuple[str, int, int] | None:
    """Who was killed, behind which step, and the status of tunesmith; None when the training was finished before."""
    before = len(steps(run))
    child = start(recipe, run, processes)
    while len(steps(run)) == before and child.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 1))
    if child.poll() is not None:
        return None
    every = victims(child)
    name = draw.choice(sorted(every.keys() - {"launcher"}))
    every[name].send_signal(signal.SIGKILL)
    status = child.wait()
    for process in every.values():  # nobody else may end them: they must end by themselves
        process.wait(60)
    return name, steps(run)[-1], status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["TUNESMITH_CACHE"] = str(place / "cache")
        write_rows(place / "rows.jsonl", 100)
        recipe = write_recipe(place / "sums.toml", write_model(place / "tiny"), RECIPE)
        prepare = [sys.executable, "-m", "tunesmith", "prepare", str(recipe), "--run"]
        for name in ("alone", "whole", "killed"):
            subprocess.run([*prepare, str(place / name)], check=True, stdout=subprocess.DEVNULL)
        alone, whole = finish(recipe, place / "alone", 1), finish(recipe, place / "whole", asked.processes)
        print("| kill | of | behind step | tunesmith's exit status |\n|--:|---|--:|--:|", flush=True)
        draw = random.Random(0)
        for kill in range(1, asked.kills + 1):
            found = kill_one(recipe, place / "killed", asked.processes, draw)
            if found is None:
                print(f"\nfinished before kill {kill}")
                break
            print(f"| {kill} | {found[0]} | {found[1]} | {found[2]} |", flush=True)
        killed = finish(recipe, place / "killed", asked.processes)
        from tunesmith.run import RunFolder

        recorded = [e.step for e in RunFolder(place / "killed").events() if e.event == "step" and e.step]
        print(f"\nsteps recorded once each: {recorded == sorted(set(recorded)) == list(range(1, len(recorded) + 1))}")
        for name, other in (("several undisturbed", whole), ("one undisturbed", alone)):
            print(f"largest difference from {name}: {max(float(abs(killed[k] - other[k]).max()) for k in other):.1e}")


if __name__ == "__main__":
    main()
