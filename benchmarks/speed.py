"""tunesmith beside TRL + PEFT, LLaMA-Factory and mlx-lm: same model, rows, settings, precision, alternating in one run.

    python benchmarks/speed.py --data FOLDER/wikisql/wikisql-exec --growth --out speed.jsonl --write
    python benchmarks/speed.py --draw speed.jsonl [--write]

Every peer has its own environment, made the first time; one that cannot be made, or that fails, is in the table with
the reason. All train LoRA (rank 8, alpha 16, learning rate 1e-4 throughout, no warm-up, no weight decay, gradients
clipped at 1 where the peer can) on the same rows, in the same order where the peer can be told one. tokens/s count no
padding and leave out each program's first step. MLX multiplies slowly on a CPU: it gets float32 on both sides,
fewer rows, also of those that the loss is measured on, and one round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import draw
import growth
import tables
from peers import OWN, PEERS, Failed, Program, call, python_of, run, versions

HERE = Path(__file__).parent
KEPT_OUT = 64
"""Rows that the loss is measured on."""


def main() -> None:
    options = arguments()
    if options.draw:
        records = [json.loads(line) for line in options.draw.read_text().splitlines()]
    else:
        records = []
        with tempfile.TemporaryDirectory() as folder:
            for record in measured(options, Path(folder)):
                records.append(record)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    text = tables.everything(records)
    print(text)
    if options.write:
        draw.write(text, records)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed beside TRL + PEFT, LLaMA-Factory and mlx-lm")
    what = parser.add_argument_group("what to do")
    what.add_argument("--data", type=Path, help="measure beside the peers on this folder's train.jsonl (WikiSQL)")
    what.add_argument("--growth", action="store_true", help="measure how time and memory grow")
    what.add_argument("--draw", type=Path, help="measure nothing: show what --out wrote there")
    what.add_argument("--out", type=Path, help="append results to this file, one JSON object a line")
    what.add_argument("--write", action="store_true", help="put tables and plot into docs/speed.md and docs/speed.svg")
    how = parser.add_argument_group("how")
    how.add_argument("--layers", type=int, nargs="+", default=[4, 16, 30], help="how many of the top layers learn")
    how.add_argument("--rows", type=int, default=160)
    how.add_argument("--mlx-rows", type=int, default=4)
    how.add_argument("--epochs", type=int, default=3)
    how.add_argument("--rounds", type=int, default=3)
    how.add_argument("--batch", type=int, default=4)
    how.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of all but MLX")
    shorts = [peer.short for peer in PEERS]
    how.add_argument("--peers", nargs="*", choices=shorts, default=shorts)
    options = parser.parse_args()
    if not (options.data or options.growth or options.draw):
        parser.error("one of --data, --growth and --draw is needed")
    if options.rows % options.batch or options.mlx_rows % options.batch:
        parser.error("rows must fill whole batches: peers never see the last partial one, or see it elsewhere")
    return options


def measured(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Records as they come: one of this machine, then one for each training."""
    model = starter(folder / "starter")
    settings = {"epochs": options.epochs, "batch": options.batch, "learning_rate": 1e-4, "rank": 8, "alpha": 16,
                "modules": ["q_proj", "v_proj"], "precision": options.precision}  # fmt: skip
    began = time.strftime("%Y-%m-%d %H:%M")
    yield {"kind": "run", "began": began, "cores": os.cpu_count(), "machine": platform.machine(), **settings,
           "rows": options.rows, "mlx_rows": options.mlx_rows, "rounds": options.rounds}  # fmt: skip
    if options.data:
        yield from beside_peers(options, model, settings, folder)
    if options.growth:
        for record in growth.measure(model, settings, folder):
            print(progress(record), file=sys.stderr, flush=True)
            yield record


def starter(folder: Path) -> Path:
    """The starter with its weights in a safetensors file, which every peer reads."""
    from tunesmith.models.find import find
    from tunesmith.models.safetensors_file import Tensor, write_safetensors
    from tunesmith.models.weights import tensor_index

    found = find("starter").folder
    folder.mkdir()
    for file in found.glob("*.json"):
        shutil.copy(file, folder)
    stored = tensor_index(found)
    tensors = [Tensor(name, one.dtype, one.shape, one.chunks) for name, one in stored.items()]
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def beside_peers(options: argparse.Namespace, model: Path, settings: dict, folder: Path) -> Iterator[dict]:
    rows, failed = prepare(options.data, model, folder, options.rows), dict[str, str]()
    programs = in_turn([peer for peer in PEERS if peer.short in options.peers])
    for program in programs:
        try:
            python_of(program)
            yield {"kind": "versions", "name": program.name, "versions": versions(program)}
        except Failed as error:
            failed[program.name] = f"not installed: {error}"
    for layers in options.layers:
        for turn in range(options.rounds):
            yield {"kind": "multiply", "layers": layers, "round": turn, **multiply_rates(programs, options.precision)}
            for program in programs:
                record = {"kind": "speed", "name": program.name, "engine": program.engine,
                          "layers": layers, "round": turn}  # fmt: skip
                mlx = program.engine == "mlx"
                if mlx and turn:  # one round of it takes longer than all of the others
                    continue
                chosen = {**settings, "layers": layers, "precision": "fp32" if mlx else options.precision}
                taken = ordered(rows, options.mlx_rows if mlx else options.rows, chosen)
                try:
                    if program.name in failed:
                        raise Failed(failed[program.name])
                    record |= run(program, model, taken, chosen, folder / f"{layers}-{turn}-{program.short}")
                except Failed as error:
                    record["failed"] = str(error)
                print(progress(record), file=sys.stderr, flush=True)
                yield record


def in_turn(peers: list[Program]) -> list[Program]:
    """Each engine of ours followed by the peers it is measured beside."""
    engines = list(dict.fromkeys(["torch", *(peer.engine for peer in peers)]))
    return [program for e in engines for program in (OWN[e], *(peer for peer in peers if peer.engine == e))]


def multiply_rates(programs: list[Program], precision: str) -> dict[str, dict]:
    """GFLOP/s of this machine now, by engine: the better of the ways it can be done."""
    rates = {}
    for engine in dict.fromkeys(program.engine for program in programs):
        wanted = "fp32" if engine == "mlx" else precision
        command = [sys.executable, str(HERE / "multiply.py"), "--engine", engine, "--precision", wanted]
        rates[engine] = json.loads(call(command))
    return {"rates": rates}


def prepare(data: Path, model: Path, folder: Path, count: int) -> dict:
    """Rows as token ids and learn masks: so many to train, and `KEPT_OUT` to measure."""
    from tunesmith.dataset import prepare as dataset
    from tunesmith.settings import make_recipe

    source = {"path": "train.jsonl", "kind": "wikisql", "tables": "train.tables.jsonl", "limit": count + KEPT_OUT}
    recipe = make_recipe({"data": {"sources": [source], "split": {"valid": 0, "test": 0}}}, folder=data)
    for _ in dataset.prepare(recipe.data, model, folder / "dataset"):
        pass
    tokens = dataset.tokens(folder / "dataset", "train")
    rows = [{"ids": ids.tolist(), "learn": learn.tolist()} for ids, learn in (tokens[i] for i in range(len(tokens)))]
    return {"train": rows[:count], "valid": rows[count:]}


def ordered(rows: dict, count: int, settings: dict) -> dict:
    """The first so many rows, and the order in which all epochs take them: the one that `tunesmith run` would."""
    from tunesmith.training.order import Order

    train, valid = rows["train"][:count], rows["valid"][:count]
    order = Order(len(train), settings["batch"], 0)
    steps = range(1, settings["epochs"] * order.steps_per_epoch + 1)
    return {"train": train, "valid": valid, "order": [row for step in steps for row in order.rows(step)]}


def progress(record: dict) -> str:
    where = " ".join(f"{key} {record[key]}" for key in ("name", "layers", "rows", "length", "round") if key in record)
    if "failed" in record:
        return f"{where}: failed: {record['failed']}"
    if record["kind"] == "growth":
        return f"{where}: {record['epoch_seconds']:.2f} s an epoch"
    return f"{where}: {tables.all_in(record):,.0f} tokens/s, other work on {record['other_cores'] or 0:.1f} cores"


if __name__ == "__main__":
    main()
