"""The runs of a sweep side by side, the best first."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import visible
from tunesmith.cli.plot import BEST
from tunesmith.cli.prose import Prose
from tunesmith.cli.sweep_plot import panels, strips
from tunesmith.cli.tables import hanging
from tunesmith.stages.grid import short_names, show

HONEST = "sorted and chosen by the loss on the validation rows; test loss and scores report that choice, and made none"
NO_CHOICE = "there are no validation rows, so none is the best: data.split.valid keeps some out"


def sweep_table(comparison: dict[str, Any], width: int) -> RenderableType:
    """The table, how it was chosen, the plot, and what went wrong."""
    parts: list[RenderableType] = [SweepTable(comparison)]
    if any(not run["error"] for run in comparison["runs"]):
        parts.append(Prose(HONEST if comparison["best"] else NO_CHOICE, "dim"))
    for run in comparison["runs"]:
        if run["changes"]:
            taken = ", ".join(f"{name} = {show(value)}" for name, value in run["changes"].items())
            parts.append(hanging("!", visible(f"{run['run']} took {taken}, so that it fits"), "bold yellow"))
        if run["error"]:
            parts.append(hanging("✗", visible(f"{run['run']}: {run['error']}"), "bold red"))
    if drawn := panels(comparison):
        parts += [Text(), strips(drawn, width)]
    return Group(*parts)


class SweepTable:
    """Where it is narrow, intervals are left out, then size, time and memory."""

    def __init__(self, comparison: dict[str, Any]) -> None:
        self.runs, self.best = comparison["runs"], comparison["best"]
        self.short = short_names(comparison["settings"])
        self.tasks = list(dict.fromkeys(task for run in self.runs for task in run["tasks"]))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for detail in (2, 1, 0):
            table = self._table(detail)
            if console.measure(table, options=options.update_width(1000)).maximum <= options.max_width:
                break
        yield table

    def _table(self, detail: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        for heading in self.short.values():
            table.add_column(visible(heading), justify="right", overflow="fold")
        for heading in ("valid loss", "test loss"):
            table.add_column(heading, justify="right", no_wrap=True)
        for task in self.tasks:
            table.add_column(visible(task), no_wrap=True)
        for heading in ("trained", "time", "memory") if detail else ():
            table.add_column(heading, justify="right", no_wrap=True)
        for run in self.runs:
            best = run["run"] == self.best
            table.add_row(
                *(visible(show(run["settings"][name])) for name in self.short),
                Text("failed") if run["error"] else Text(f"{_number(run['valid_loss'])} {BEST if best else ' '}"),
                _number(run["test_loss"]),
                *(_score(run["tasks"].get(task), interval=detail == 2) for task in self.tasks),
                *(_costs(run) if detail else ()),
                style="red" if run["error"] else "bold green" if best else "",
            )
        return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _score(task: dict[str, Any] | None, *, interval: bool) -> str:
    if task is None or task["score"] is None:  # where no answer could be graded
        return "–"
    low, high = task.get("interval", (None, None))
    return words.percent(task["score"]) + (f" {100 * low:.0f}–{100 * high:.0f}" if interval and low is not None else "")


def _costs(run: dict[str, Any]) -> tuple[str, str, str]:
    """Trained numbers, time and memory."""
    trained, seconds, memory = run["parameters"], run["seconds"], run["memory"]
    return (
        "–" if trained is None else f"{trained / 1e6:.2f} M" if trained >= 1e5 else f"{trained:,}",
        "–" if seconds is None else words.duration(seconds),
        "–" if memory is None else words.size(memory),
    )
