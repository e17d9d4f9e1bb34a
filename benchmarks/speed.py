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
LAYERS = 30
"""The starter's."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed beside TRL + PEFT")
    parser.add_argument("--data", type=Path, required=True, help="folder of train.jsonl and train.tables.jsonl")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[4, 16, LAYERS], help="how many of the top layers learn"
    )
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--modules", nargs="+", default=["q_proj", "v_proj"])
    options = parser.parse_args()
    peer = make_peer()
    print("| layers | | tokens/s, all in | epochs after the first pass | peak memory | held-out loss |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        model, rows = prepare(options.data, Path(folder), options.rows)
        for layers in options.layers:
            settings = {
                "epochs": options.epochs, "batch": options.batch, "learning_rate": 1e-4, "rank": 8, "alpha": 16,
                "modules": options.modules, "layers": layers, "out": f"{folder}/trl",
            }  # fmt: skip
            file = Path(folder) / "settings.json"
            file.write_text(json.dumps(settings))
            results: dict[str, list[dict]] = {"tunesmith": [], "TRL + PEFT": []}
            for number in range(options.rounds):
                os.environ["TUNESMITH_CACHE"] = (
                    f"{folder}/cache-{layers}-{number}"  # nothing is kept from round to round
                )
                results["tunesmith"].append(run(sys.executable, "own.py", model, rows, file))
                results["TRL + PEFT"].append(run(peer, "trl_peer.py", model, rows, file))
            print(table(layers, results), flush=True)


def make_peer() -> str:
    """The peer's own environment; its python."""
    python = PEER / "bin" / "python"
    if not (PEER / ".done").exists():
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
        (PEER / ".done").touch()
    return str(python)


def prepare(data: Path, folder: Path, count: int) -> tuple[Path, Path]:
    """The starter's folder, and a file of rows as token ids and learn masks: so many to train, and 64 to measure."""
    from tunesmith.dataset import prepare as dataset
    from tunesmith.models.find import find
    from tunesmith.settings import make_recipe

    model = find("starter").folder
    source = {"path": "train.jsonl", "kind": "wikisql", "tables": "train.tables.jsonl", "limit": count + 64}
    recipe = make_recipe({"data": {"sources": [source], "split": {"valid": 0, "test": 0}}}, folder=data)
    for _ in dataset.prepare(recipe.data, model, folder / "dataset"):
        pass
    tokens = dataset.tokens(folder / "dataset", "train")
    rows = [{"ids": ids.tolist(), "learn": learn.tolist()} for ids, learn in (tokens[i] for i in range(len(tokens)))]
    file = folder / "rows.json"
    file.write_text(json.dumps({"train": rows[:count], "valid": rows[count:]}))
    return model, file


def run(python: str, script: str, model: Path, rows: Path, settings: Path) -> dict:
    command = [python, str(ROOT / "benchmarks" / script), str(model), str(rows), str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(layers: int, results: dict[str, list[dict]]) -> str:
    """Two lines, and one with tunesmith's as multiples of the peer's, round by round."""
    median, lines = statistics.median, []
    all_in = {
        name: [r["tokens"] / (r["seconds"] + r.get("prefix_seconds", 0)) for r in runs]
        for name, runs in results.items()
    }
    later = {name: [r["tokens"] / r["seconds"] for r in runs] for name, runs in results.items()}
    for name, runs in results.items():
        memory = max(r["memory"] for r in runs) / 1e9
        lines.append(
            f"| {layers} | {name} | {median(all_in[name]):,.0f} | {median(later[name]):,.0f} | {memory:.2f} GB "
            f"| {runs[0]['valid']:.4f} |"
        )
    ratios = [[a / b for a, b in zip(*kind.values(), strict=True)] for kind in (all_in, later)]
    told = [f"**{median(r):.1f}** ({', '.join(f'{x:.1f}' for x in r)})" for r in ratios]
    memory, loss = (median(r[key] for r in results["tunesmith"]) / median(r[key] for r in results["TRL + PEFT"])
                    for key in ("memory", "valid"))  # fmt: skip
    lines.append(f"| | ratio | {told[0]} | {told[1]} | {memory:.2f} | {loss:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
