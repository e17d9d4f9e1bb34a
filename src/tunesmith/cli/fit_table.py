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
    "filling": "before the first step, instead: the layers that do not learn",
}


AS_BUSY = {False: "", True: " if the machine stays as busy as it is now"}


def fit_rows(fit: Fit) -> list[tuple[str, str, bool]]:
    """(what, how much, whether it is a peak) of memory by part, disk and time."""
    rows = [(name, words.size(size), False) for part, name in PARTS.items() if (size := getattr(fit.needs, part))]
    rows.append(("all at its peak", words.size(fit.needs.total), True))
    if fit.trial:
        rows.append(("… measured in one real step", words.size(fit.trial.memory), True))
    rows.append(("memory that can be had", words.size(fit.limit), False))
    name, size = fit.needs.largest
    allowed = f" of {words.size(fit.largest_buffer)}" if fit.largest_buffer else ""
    rows.append((f"largest piece: {name}", words.size(size) + allowed, False))
    if fit.states:
        rows.append(("disk for what the frozen layers give", words.size(fit.states), False))
    rows.append(("disk for checkpoints", words.size(fit.checkpoints), False))
    rows.append(("disk that is free", words.size(fit.disk_free), False))
    if fit.seconds:
        rows.append(("time of the training, about", words.duration(fit.seconds), False))
    return rows


def fit_verdict(fit: Fit) -> str:
    """Whether it fits, and what to do where it does not, in a sentence."""
    if fit.lacking:
        return f"{fit.lacking}; {fit.advice}"
    peak = fit.trial.memory if fit.trial else fit.needs.total
    said = f"it fits: {words.size(peak)} of the {words.size(fit.limit)} of memory that can be had"
    return said + (
        f"; the training takes about {words.duration(fit.seconds)}{AS_BUSY[fit.shared]}" if fit.seconds else ""
    )


def fit_table(fit: Fit) -> RenderableType:
    """`fit_verdict` and `fit_rows` for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("memory, disk and time of the training")
    table.add_column("", justify="right", no_wrap=True)
    for what, size, peak in fit_rows(fit):
        table.add_row(what, Text(size, "bold" if peak else ""))
    sign, style = ("✗", "bold red") if fit.lacking else ("✓", "bold green")
    return Group(hanging(sign, fit_verdict(fit), style), table)


def fit_values(fit: Fit) -> dict[str, Any]:
    """The same for --json, in bytes and seconds."""
    values: dict[str, Any] = {part: getattr(fit.needs, part) for part in PARTS}
    return {
        "fits": not fit.lacking, "needed": {**values, "total": fit.needs.total}, "available": fit.limit,
        "measured": fit.trial.memory if fit.trial else None, "seconds": fit.seconds, "states": fit.states,
        "checkpoints": fit.checkpoints, "disk_free": fit.disk_free, "changes": fit.changes,
    }  # fmt: skip
