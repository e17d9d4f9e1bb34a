"""What was measured, as people read it: the models beneath each other, and the verdict in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tunesmith.cli.console import visible
from tunesmith.cli.prose import Prose
from tunesmith.cli.tables import bar, hanging
from tunesmith.evaluation.verdict import tasks_of, verdict
from tunesmith.pages.words import percent

SIGNS = {"good": ("✓", "bold green"), "bad": ("✗", "bold red"), "unsure": ("?", "bold yellow"), "note": ("•", "dim")}
"""By the tone of a sentence."""
LOSSES = {"loss": ".3f", "perplexity": ".2f"}
GENERAL = "general"
"""The column of the general set, which is not one of the tasks."""


class ResultsTable:
    """Measured models, base first; ◆ marks the best of a column where a difference can be told. Where the terminal is
    too narrow, bars and then intervals are left out, then what has no place beside the others stands below them."""

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        self.results = results
        general = [GENERAL] if any(GENERAL in result for result in results) else []
        self.columns = [*LOSSES, *tasks_of(results), *general]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def fits(table: Table) -> bool:
            return console.measure(table, options=options.update_width(1000)).maximum <= options.max_width

        for detail in (2, 1, 0):
            table = self._table(self.columns, detail)
            if fits(table):
                yield table
                break
        else:
            for columns in self._divided(fits):
                yield self._table(columns, 0)
        tasks = tasks_of(self.results)
        if tasks and any(
            result.get("model", "").startswith("step-") and not result.get("tasks") for result in self.results
        ):
            yield Text("– not asked: questions are put to base and tuned alone", "dim")
        for sentence in verdict(self.results):
            sign, style = SIGNS[sentence.tone]
            yield hanging(sign, visible(sentence.text), style)

    def _divided(self, fits: Callable[[Table], bool]) -> Iterator[list[str]]:
        """The columns in as many groups as it takes for each to fit."""
        group: list[str] = []
        for column in self.columns:
            if group and not fits(self._table([*group, column], 0)):
                yield group
                group = []
            group.append(column)
        yield group

    def _table(self, columns: Sequence[str], detail: int) -> Table:
        splits = len({result.get("split", "") for result in self.results}) > 1
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        for heading in ["model", *(["rows"] if splits else [])]:
            table.add_column(heading, vertical="bottom", max_width=24)
        for column in columns:
            is_loss = column in LOSSES
            heading = column if is_loss else _heading(column, self.results, " " if detail else "\n")
            table.add_column(heading, vertical="bottom", justify="right" if is_loss else "left", no_wrap=True)
        best = {column: _best(column, self.results) for column in columns}
        for result in self.results:
            name = result.get("model", "")
            table.add_row(
                Prose(visible(name), "bold" if name in ("base", "tuned") else ""),
                *([visible(result.get("split", ""))] if splits else []),
                *(_cell(result, column, result is best[column], detail) for column in columns),
            )
        return table


def _heading(task: str, results: Sequence[dict[str, Any]], between: str) -> str:
    n = next((measured["n"] for result in results if (measured := _measured(result, task)) and "n" in measured), 0)
    return f"{visible(task)}{between}of {n:,}"


def _measured(result: dict[str, Any], column: str) -> dict[str, Any] | None:
    return result.get(GENERAL) if column == GENERAL else result.get("tasks", {}).get(column)


def _best(column: str, results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The result that is marked. A score is when it is better than base's, or base's when all others are worse."""
    if column in LOSSES:
        known = [result for result in results if result.get(column) is not None]
        return min(known, key=lambda result: result[column]) if len(known) > 1 else None
    scored = [(result, measured) for result in results
              if (measured := _measured(result, column)) and measured.get("score") is not None]  # fmt: skip
    if len(scored) < 2:
        return None
    best, measured = max(scored, key=lambda pair: pair[1]["score"])
    told = [measured] if "difference" in measured else [other for _, other in scored if "difference" in other]
    unsure = any(other["difference"]["verdict"] == "not distinguishable" for other in told)
    return None if unsure else best


def _cell(result: dict[str, Any], column: str, best: bool, detail: int) -> Text:
    if column in LOSSES:
        return _number(result.get(column), LOSSES[column], best=best)
    return _score(_measured(result, column), best, detail)


def _number(value: float | None, spec: str, *, best: bool) -> Text:
    if value is None:
        return Text("–  ", "dim")
    return Text(f"{value:,{spec}} {'◆' if best else ' '}", "bold green" if best else "")


def _score(measured: dict[str, Any] | None, best: bool, detail: int) -> Text:
    if measured is None or measured.get("score") is None:
        return Text("     –", "dim")
    score = measured["score"]
    cell = Text(f"{percent(score):>6} {'◆' if best else ' '} ", "bold green" if best else "")
    if detail >= 2:
        cell.append(bar(score, 16) + " ", "not bold green" if best else "cyan")
    if detail >= 1 and "interval" in measured:
        low, high = measured["interval"]
        cell.append(f"{100 * low:.0f}–{100 * high:.0f} %", "not bold dim")
    return cell
