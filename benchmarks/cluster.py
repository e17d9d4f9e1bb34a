"""Rows made into a dataset alone and on a Ray cluster of three nodes: the same files, while nodes are killed.

    python benchmarks/cluster.py [--megabytes 100] [--kills 5]

A row has a question and an answer of random words. All three nodes are on this machine and share its cores, so what is
compared is what the cluster costs and whether it gives the same bytes, not how much faster more machines are. A node is
killed (SIGKILL to all of its processes) at random moments and another takes its place, so many times.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from tunesmith.dataset.prepare import prepare
from tunesmith.models.find import find
from tunesmith.settings import make_recipe

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def main() -> None:
    parser = argparse.ArgumentParser(description="A dataset made on a cluster")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder, model = Path(name), find("starter").folder
        rows = write(folder / "rows.jsonl", asked.megabytes * 10**6)
        data = make_recipe({"data": {"sources": ["rows.jsonl"]}}, folder=folder).data
        print("| where | rows | seconds | MB/s | nodes killed | files |\n|---|---|---|---|---|---|")
        known, seconds = "", 0.0
        for where, kills in (("alone", 0), ("cluster", 0), ("cluster", asked.kills)):
            out, killed, began = folder / "dataset", 0, time.monotonic()
            if where == "alone":
                made(data, model, out, "")
            else:  # kills fall into the time that the run before took
                killed = on_cluster(data, model, out, kills, seconds)
            seconds, found = time.monotonic() - began, digest(out)
            known = known or found
            same = "the same, byte for byte" if found == known else "OTHERS"
            speed = asked.megabytes / seconds
            print(f"| {where} | {rows:,} | {seconds:.0f} | {speed:.1f} | {killed} | {same} |", flush=True)


def on_cluster(data: Any, model: Path, out: Path, kills: int, within: float) -> int:
    """How many nodes were killed while the work was done."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    over, killed = threading.Event(), list[float]()

    def kill() -> None:
        moments = sorted(random.Random(0).uniform(0.1, 0.9) * within for _ in range(kills))
        began = time.monotonic()
        for number, moment in enumerate(moments):
            if over.wait(max(0.0, began + moment - time.monotonic())):
                return
            cluster.remove_node(nodes[number % 2], allow_graceful=False)
            killed.append(moment)
            with contextlib.suppress(Exception):  # the work is over, and its cluster goes
                nodes[number % 2] = cluster.add_node(num_cpus=1)

    killer = threading.Thread(target=kill)
    try:
        killer.start()
        made(data, model, out, str(cluster.address))
    finally:
        over.set()
        killer.join()
        cluster.shutdown()
    return len(killed)


def made(data: Any, model: Path, out: Path, cluster: str) -> None:
    for _ in prepare(data, model, out, cluster=cluster):
        pass


def digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def write(path: Path, size: int) -> int:
    """Rows of about 1,000 bytes; how many."""
    draw, rows, written = random.Random(1), 0, 0
    words = [f"{draw.choice('bcdfg')}{draw.choice('aeiou')}{i}" for i in range(4000)]
    with path.open("wb") as file:
        while written < size:
            row = {
                "prompt": f"{rows}: {' '.join(draw.choices(words, k=60))}?",
                "completion": " ".join(draw.choices(words, k=100)),
            }
            written += file.write(orjson.dumps(row) + b"\n")
            rows += 1
    return rows


if __name__ == "__main__":
    main()
