"""Whether a training fits into memory, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.tables import hanging

if TYPE_CHECKING:
    from tunesmith.training.fit import Fit

PARTS = {
    "program": "programs and their libraries",
    "weights": "weights that stay in memory",
    "adapter": "what learns, and the optimizer",
    "activations": "what a step keeps for its way back",
    "head": "scores of all words (logits)",
    "filling": "or, before: the layers that do not learn",
}


def fit_table(fit: Fit) -> RenderableType:
    """Memory by part, disk and time, and what to do where it does not fit."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("memory of the training, estimated")
    table.add_column("", justify="right", no_wrap=True)
    for part, name in PARTS.items():
        if size := getattr(fit.needs, part):
            table.add_row(name, words.size(size))
    table.add_row("all at its peak", Text(words.size(fit.needs.total), "bold"))
    if fit.trial:
        table.add_row("… measured in one real step", Text(words.size(fit.trial.memory), "bold"))
    table.add_row("memory that can be had", words.size(fit.limit))
    name, size = fit.needs.largest
    allowed = f" of {words.size(fit.largest_buffer)}" if fit.largest_buffer else ""
    table.add_row(f"largest piece: {name}", words.size(size) + allowed)
    if fit.states:
        table.add_row("disk for what the frozen layers give", words.size(fit.states))
    table.add_row("disk for checkpoints", words.size(fit.checkpoints))
    table.add_row("disk that is free", words.size(fit.disk_free))
    if fit.seconds:
        table.add_row("time of the training, about", words.duration(fit.seconds))
    if fit.lacking:
        return Group(hanging("✗", f"{fit.lacking}; {fit.advice}", "bold red"), table)
    peak = fit.trial.memory if fit.trial else fit.needs.total
    said = f"it fits: {words.size(peak)} of the {words.size(fit.limit)} of memory that can be had"
    said += f", and about {words.duration(fit.seconds)}" if fit.seconds else ""
    return Group(hanging("✓", said, "bold green"), table)


def fit_values(fit: Fit) -> dict[str, Any]:
    """The same for --json, in bytes and seconds."""
    values: dict[str, Any] = {part: getattr(fit.needs, part) for part in PARTS}
    return {
        "fits": not fit.lacking, "needed": {**values, "total": fit.needs.total}, "available": fit.limit,
        "measured": fit.trial.memory if fit.trial else None, "seconds": fit.seconds, "states": fit.states,
        "checkpoints": fit.checkpoints, "disk_free": fit.disk_free, "changes": fit.changes,
    }  # fmt: skip
