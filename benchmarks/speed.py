"""Training speed beside TRL + PEFT: same model, rows, settings and precision, alternating in one run.

    python benchmarks/speed.py --data FOLDER/wikisql/wikisql-exec [--steps 40] [--rounds 3]

tokens/s count no padding and leave out each program's first step. Both train LoRA on the same rows of
WikiSQL in bf16, in batches of the same size drawn from the same 320 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEER = ROOT / "benchmarks" / ".peer"
PEER_PACKAGES = ["torch==2.13.0", "trl==1.16.0", "peft", "transformers", "datasets"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed beside TRL + PEFT")
    parser.add_argument("--data", type=Path, required=True, help="folder of train.jsonl and train.tables.jsonl")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    peer = make_peer()
    with tempfile.TemporaryDirectory() as folder:
        model, rows = prepare(options.data, Path(folder))
        settings = {
            "steps": options.steps, "batch": options.batch, "learning_rate": 1e-4, "rank": 16, "alpha": 32,
            "modules": ALL, "layers_to_transform": None, "out": f"{folder}/trl",
        }  # fmt: skip
        settings_file = Path(folder) / "settings.json"
        settings_file.write_text(json.dumps(settings))
        results: dict[str, list[dict]] = {"tunesmith": [], "TRL + PEFT": []}
        for _ in range(options.rounds):
            for name, python, script in (("tunesmith", sys.executable, "own.py"), ("TRL + PEFT", peer, "trl_peer.py")):
                results[name].append(run(python, script, model, rows, settings_file))
                print(name, round(results[name][-1]["tokens"] / results[name][-1]["seconds"]), "tokens/s", flush=True)
    print(table(results))


def make_peer() -> str:
    """The peer's own environment; its python."""
    python = PEER / "bin" / "python"
    if not (PEER / ".done").exists():
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
        (PEER / ".done").touch()
    return str(python)


def prepare(data: Path, folder: Path) -> tuple[Path, Path]:
    """The starter's folder, and a file of 320 rows as token ids and learn masks."""
    from tunesmith.dataset import prepare as dataset
    from tunesmith.models.find import find
    from tunesmith.settings import make_recipe

    model = find("starter").folder
    source = {"path": "train.jsonl", "kind": "wikisql", "tables": "train.tables.jsonl", "limit": 320}
    recipe = make_recipe({"data": {"sources": [source], "split": {"valid": 0, "test": 0}}}, folder=data)
    for _ in dataset.prepare(recipe.data, model, folder / "dataset"):
        pass
    tokens = dataset.tokens(folder / "dataset", "train")
    rows = [tokens[i] for i in range(len(tokens))]
    file = folder / "rows.json"
    file.write_text(json.dumps([{"ids": ids.tolist(), "learn": learn.tolist()} for ids, learn in rows]))
    return model, file


def run(python: str, script: str, model: Path, rows: Path, settings: Path) -> dict:
    command = [python, str(ROOT / "benchmarks" / script), str(model), str(rows), str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(results: dict[str, list[dict]]) -> str:
    lines = ["", "| | tokens/s, median (each round) | peak memory | loss of the last 10 steps |", "|---|---|---|---|"]
    speeds = {name: [r["tokens"] / r["seconds"] for r in runs] for name, runs in results.items()}
    for name, runs in results.items():
        rounds = ", ".join(f"{s:.0f}" for s in speeds[name])
        memory = max(r["memory"] for r in runs) / 1e9
        loss = statistics.mean(runs[0]["losses"][-10:])
        lines.append(f"| {name} | {statistics.median(speeds[name]):.0f} ({rounds}) | {memory:.2f} GB | {loss:.3f} |")
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    lines.append(
        f"\nRatio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}; median {statistics.median(ratios):.2f}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
