"""Proofs of exported files, as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import visible
from tunesmith.cli.tables import hanging
from tunesmith.export.proof_file import ALWAYS, broken_limits, said

NUMBERS = {"kl": "KL", "largest_kl": "worst KL", "top1": "top-1", "difference": "logits", "base_kl": "KL to base",
           "perplexity_ratio": "perplexity"}  # fmt: skip
"""Numbers of a proof and their headings."""


def proof_table(proofs: Sequence[dict[str, Any]]) -> RenderableType:
    """One line a file, then what did not hold and why."""
    below: list[RenderableType] = []
    for proof in proofs:
        model = next((check["measured"] for check in proof["checks"] if check["name"] == "model"), {})
        if proof.get("base was quantized") and model.get("perplexity_file"):
            below.append(hanging("·", _merging(proof, model), "dim"))
    for proof in proofs:
        file = visible(proof["gguf"])
        below += [hanging("✗", f"{file}, {c['name']}: {_beyond(c)}", "red") for c in proof["checks"] if not c["holds"]]
        below += [hanging("→", visible(cause["sentence"]), "bold red") for cause in proof["causes"]]
    return Group(Proofs(proofs), *below)


class Proofs:
    """A number that broke its limit has the limit below it. Where it is narrow, numbers that are not always shown are
    left to the lines below the table, and then the task's interval is left out."""

    def __init__(self, proofs: Sequence[dict[str, Any]]) -> None:
        self.proofs = proofs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        longest = max((cell_len(visible(proof["gguf"])) for proof in self.proofs), default=0)
        folded = longest - min(longest, 16)  # a name may go over several lines, a number may not
        for every, interval in ((True, True), (False, True), (False, False)):
            table = self._table(every, interval)
            if console.measure(table, options=options.update_width(1000)).maximum - folded <= options.max_width:
                break
        yield table

    def _table(self, every: bool, interval: bool) -> Table:
        checks = [next((c for c in proof["checks"] if c["name"] == "model"), {}) for proof in self.proofs]
        broken = [{b["number"] for b in check.get("broken", ())} for check in checks]
        shown = [n for n in NUMBERS if n in ALWAYS or (every and any(n in numbers for numbers in broken))]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("file", overflow="fold")
        for heading in ("proof", *(NUMBERS[number] for number in shown), "task"):
            table.add_column(heading, justify="left" if heading in ("proof", "task") else "right", no_wrap=True)
        for proof, check, beyond in zip(self.proofs, checks, broken, strict=True):
            held = sum(check["holds"] for check in proof["checks"])
            sign, style = ("✓", "bold green") if proof["holds"] else ("✗", "bold red")
            table.add_row(
                visible(proof["gguf"]), Text(f"{sign} {held} of {len(proof['checks'])}", style),
                *(_proved(number, check, number in beyond) for number in shown), _task(proof.get("task"), interval),
            )  # fmt: skip
        return table


def _proved(number: str, check: dict[str, Any], broken: bool) -> Text:
    """One number, with the limit it broke."""
    value = said(number, check.get("measured", {}))
    if not broken:
        return Text(value)
    limit = check["limit"][number]
    most = {"top1": f"< {words.percent(limit)}", "base_kl": f"< {limit:.2g}", "perplexity_ratio": f"> × {limit:g}"}
    return Text(f"{value}\n{most.get(number, f'> {limit:g}')}", "bold red")


def _beyond(check: dict[str, Any]) -> str:
    return visible(", ".join(broken_limits(check))) or check["means"]


def _merging(proof: dict[str, Any], model: dict[str, Any]) -> str:
    """What merging into weights that had been quantized before has cost: base with adapter, and the file."""
    before, after = (math.log(model[f"perplexity_{which}"]) for which in ("trained", "file"))
    rounded = "" if proof["kind"] in ("f16", "bf16") else f" and rounding to {proof['kind']}"
    return (
        f"{visible(proof['gguf'])}: held-out loss {before:.4f} before and {after:.4f} after merging into the base's "
        f"de-quantized weights{rounded}"
    )


def _task(task: dict[str, Any] | None, interval: bool) -> str:
    if task is None:
        return "–"
    low, high = task["interval"]
    told = f" ({100 * low:.0f}–{100 * high:.0f}) of {task['n']}" if interval else ""
    return f"{task['kind']} {words.percent(task['score'])}{told}"
