"""How soon the studio's pages are there: 50 runs, one of them at work with 100,000 lines of progress.

    python benchmarks/pages.py [--rounds 5] [--chromium /usr/bin/chromium]

Each page is opened in Chromium with an empty cache: from asking for it until it can be used (`domInteractive`: all of
it is there and its scripts have run), and until the plots are drawn. Then lines are written to the run's
progress file, as its training does, and each is waited for on the screen. Medians; the browser shares the machine.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tunesmith.run import RunFolder
from tunesmith.settings import make_recipe

RUNS, LONG = 50, 100_000
PAGES = {
    "Runs": "/", "New run": "/new", "a run": "/run/run-0", "its data": "/data/run-0",
    "its evaluation": "/evaluation/run-0", "compare": "/compare/run-0", "export": "/export/run-0",
}  # fmt: skip
DRAWN = f'#charts[data-last="{LONG}"]'
USABLE = "(t => t.domInteractive - t.startTime)(performance.getEntriesByType('navigation')[0])"
LOADED = "performance.getEntries().reduce((sum, e) => sum + (e.decodedBodySize || 0), 0)"


def main() -> None:
    parser = argparse.ArgumentParser(description="The studio's pages in a browser")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    asked = parser.parse_args()
    with TemporaryDirectory() as name, sync_playwright() as play:
        run = project(Path(name))
        browser = play.chromium.launch(executable_path=asked.chromium)
        with run.lock(), studio(Path(name)) as address:  # who holds the lock is at work on the run
            print("| page | usable after | at most | plots drawn | all that it loads |\n|---|---|---|---|---|")
            for title, path in PAGES.items():
                print(opened(browser, title, address + path, asked.rounds), flush=True)
            seen = [f"{seconds:.2f}" for seconds in points(browser, address + PAGES["a run"], run, 2 * asked.rounds)]
        browser.close()
    print(f"\na new point is on the screen after {statistics.median(map(float, seen)):.2f} s ({', '.join(seen)})")


def opened(browser: Browser, title: str, address: str, rounds: int) -> str:
    usable, drawn, size = list[float](), list[float](), 0
    for _ in range(rounds):
        with fresh(browser) as page:
            began = time.monotonic()
            page.goto(address, wait_until="domcontentloaded")
            usable.append(page.evaluate(USABLE))
            if title == "a run":
                page.wait_for_selector(DRAWN)
                drawn.append(1000 * (time.monotonic() - began))
            page.wait_for_load_state("load")
            size = page.evaluate(LOADED)
    plots = f"{statistics.median(drawn):.0f} ms" if drawn else ""
    return f"| {title} | {statistics.median(usable):.0f} ms | {max(usable):.0f} ms | {plots} | {size / 1000:.0f} kB |"


def points(browser: Browser, address: str, run: RunFolder, count: int) -> Iterator[float]:
    """Seconds from each line written until it is drawn."""
    with fresh(browser) as page:
        page.goto(address)
        page.wait_for_selector(DRAWN)
        for number in range(LONG + 1, LONG + 1 + count):
            time.sleep(0.7 + 0.13 * (number % 5))  # not in step with how often the file is looked at
            began = time.monotonic()
            with (run.path / "progress.jsonl").open("a") as file:
                file.write(step(number))
            page.wait_for_selector(f'#charts[data-last="{number}"]')
            yield time.monotonic() - began


@contextmanager
def fresh(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


@contextmanager
def studio(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tunesmith", "studio", str(folder), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        if not found:
            raise SystemExit("the studio did not start")
        yield found[0]
        process.terminate()


def project(folder: Path) -> RunFolder:
    """The folder's runs; the one with many lines is given back."""
    recipe = make_recipe({"model": {"name": "starter"}, "data": {"sources": ["rows.jsonl"]}})
    runs = [RunFolder(folder / "runs" / f"run-{i}") for i in range(RUNS)]
    row: dict[str, Any] = {"messages": [{"role": "user", "content": "为什么？" * 100},
                                        {"role": "assistant", "content": "Because. " * 100}]}  # fmt: skip
    for i, run in enumerate(runs):
        run.save_recipe(recipe)
        run.dataset.mkdir(parents=True)
        (run.dataset / "train.jsonl").write_text((json.dumps(row) + "\n") * 60, encoding="utf-8")
        (run.path / "progress.jsonl").write_text("".join(map(step, range(1, (100 if i else LONG) + 1))))
    return runs[0]


def step(number: int) -> str:
    """A line of a training's progress."""
    return json.dumps({
        "event": "step", "stage": "train", "step": number, "steps": 2 * LONG, "epoch": number / LONG,
        "loss": 2.0 - number / LONG, "learning_rate": 0.001, "gradient_norm": 1.5, "tokens": 700,
        "tokens_per_second": 60.0, "memory": 1_300_000_000, "seconds_left": 100.0, "time": 1_795_000_000.0 + number,
    }) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
