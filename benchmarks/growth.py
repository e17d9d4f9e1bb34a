"""How tunesmith's time and memory grow with rows, their length, and the layers that learn: for speed.py --growth.

Rows are made of random tokens, the last quarter of each is learned: time and memory do not depend on what they say.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from peers import OWN, Failed, run

ROWS, LENGTH, LAYERS = 24, 128, 4
"""What stays the same while another grows."""
GROWING = {"rows": (24, 48, 96), "length": (64, 128, 256, 512), "layers": (1, 4, 8, 16, 30)}
TITLES = {"rows": "rows", "length": "tokens in a row", "layers": "layers that learn"}


def measure(model: Path, settings: dict, folder: Path) -> Iterator[dict]:
    """One record for each point: seconds of the pass through the frozen layers, of an epoch after it, peak memory."""
    measured: dict[tuple[int, int, int], dict] = {}
    for what, values in GROWING.items():
        for value in values:
            point = {"rows": ROWS, "length": LENGTH, "layers": LAYERS, what: value}
            key = (point["rows"], point["length"], point["layers"])
            if key not in measured:
                place = folder / "growth" / "-".join(map(str, key))
                try:
                    measured[key] = result(run(OWN["torch"], model, *given(point, settings), place), settings)
                except Failed as error:
                    measured[key] = {"failed": str(error)}
            yield {"kind": "growth", "grows": what, "value": value, **point, **measured[key]}


def given(point: dict, settings: dict) -> tuple[dict, dict]:
    """Rows and settings of one point."""
    rng = np.random.default_rng(0)
    length, count = point["length"], point["rows"]
    learn = [i >= length * 3 // 4 for i in range(length)]
    train = [{"ids": rng.integers(20, 40000, length).tolist(), "learn": learn} for _ in range(count)]
    order = [i for _ in range(settings["epochs"]) for i in rng.permutation(count).tolist()]
    return {"train": train, "valid": [], "order": order}, {**settings, "layers": point["layers"]}


def result(measured: dict, settings: dict) -> dict:
    """An epoch is as many of its median steps as it has: the first ones write code for new shapes."""
    steps = [seconds for seconds, _ in measured["steps"]]
    per_epoch = (len(steps) + 1) / settings["epochs"]
    return {
        "epoch_seconds": statistics.median(steps) * per_epoch, "prefix_seconds": measured["prefix_seconds"],
        "memory": measured["memory"], "other_cores": measured["other_cores"],
    }  # fmt: skip


def table(records: list[dict]) -> str:
    lines = [
        "| what grows | | an epoch | frozen layers, once | tokens/s in an epoch | peak memory | other work, cores |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        head = f"| {TITLES[r['grows']]} | {r['value']} |"
        if "failed" in r:
            lines.append(f"{head} failed: {r['failed'].replace('|', '/')} | | | | |")
            continue
        speed = r["rows"] * r["length"] / r["epoch_seconds"]
        lines.append(
            f"{head} {r['epoch_seconds']:.2f} s | {r['prefix_seconds']:.2f} s | {speed:,.0f} "
            f"| {r['memory'] / 1e9:.2f} GB | {r['other_cores'] or 0:.1f} |"
        )
    return "\n".join(lines)
