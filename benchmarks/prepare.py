"""How fast rows become a dataset, and how much memory that takes, at growing sizes.

    python benchmarks/prepare.py --sizes 10 100 1000

Rows of about 1 KB, English and Chinese, written here; 2 % repeat another exactly, 2 % almost. Each size runs
in a process of its own; "read" is reading, cleaning and splitting, which tokenizing and the search for
near-duplicates follow. Memory is the peak of the process and of its largest helper.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENGLISH = "table index query cluster replica memory storage engine page lock column vector join plan scan sort merge"
CHINESE = "数据库 索引 查询 集群 副本 内存 存储 引擎 页面 锁 列 向量 连接 计划 扫描 排序 合并 日志"
WORDS = [*ENGLISH.split(), *CHINESE.split()]


def write_rows(path: Path, megabytes: int) -> None:
    rng, lines = random.Random(0), [""]
    with path.open("wb") as file:
        size, number = 0, 0
        while size < megabytes << 20:
            number += 1
            line = lines[rng.randrange(len(lines))] if rng.random() < 0.02 and lines[0] else ""
            if not line:
                words = rng.choices(WORDS, k=120)
                words[rng.randrange(120)] = str(number)
                answer = " ".join(words)
                line = json.dumps({"prompt": f"Question {number}: what about {words[3]}, {words[7]} and {words[9]}?",
                                   "completion": answer}, ensure_ascii=False)  # fmt: skip
                if rng.random() < 0.02 and lines[0]:
                    other = json.loads(lines[0])["completion"]
                    line = json.dumps(
                        {"prompt": f"Question {number}?", "completion": other + f" {number}"}, ensure_ascii=False
                    )
            lines = [line, *lines[:50]] if number % 20 == 0 else lines if lines[0] else [line]
            size += file.write(line.encode() + b"\n")


def measure(rows: Path, near: str) -> dict[str, float]:
    from tunesmith.dataset.prepare import prepare
    from tunesmith.models.find import find
    from tunesmith.settings import make_recipe

    model = find("starter").folder
    recipe = make_recipe({"data": {"sources": [str(rows)], "clean": {"near_duplicates": near}}})
    began, seen, helper = time.monotonic(), {}, 0.0
    for number, event in enumerate(prepare(recipe.data, model, rows.parent / "dataset")):
        kind = event.message.split()[0]
        seen[kind] = time.monotonic()
        if number % 8 == 0:
            helper = max([helper, *map(peak, below(os.getpid()))])
    ended = time.monotonic()
    read = seen["reading"] - began
    searched = max(seen.get("near-duplicates", seen["reading"]), seen["reading"])
    return {
        "read": read, "near": searched - seen["reading"], "tokenize": ended - searched,
        "self": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "helper": helper,
    }  # fmt: skip


def below(process: int) -> list[int]:
    """The processes that this one started, and those that they did (Linux)."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return [*children, *(further for child in children for further in below(child))]


def peak(process: int) -> float:
    """The most memory that it has had so far, MB."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    return float(status.partition("VmHWM:")[2].split()[0] if "VmHWM:" in status else 0) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--near", default="report", choices=["report", "ignore"])
    parser.add_argument("--measure", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.near)))
        return
    print(
        "| MB | read, MB/s | near-duplicates, s | tokens and writing, s | memory, MB (helper) |\n|---|---|---|---|---|"
    )
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            rows = Path(folder) / "rows.jsonl"
            write_rows(rows, size)
            command = [sys.executable, __file__, "--measure", str(rows), "--near", options.near]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        m = json.loads(out.splitlines()[-1])
        memory = f"{m['self']:.0f} ({m['helper']:.0f})"
        print(f"| {size} | {size / m['read']:.1f} | {m['near']:.1f} | {m['tokenize']:.1f} | {memory} |")


if __name__ == "__main__":
    main()
