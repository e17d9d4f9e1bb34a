"""What `tunesmith teach` shows: the account of what a teacher wrote, and what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import print_json, standard_output, visible
from tunesmith.cli.prose import Prose


def taught_table(report: dict[str, Any], place: str) -> RenderableType:
    """Every question, and what became of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", style="bold", no_wrap=True)
    grid.add_column()
    grid.add_row("questions", f"{report['questions']:,}", Prose("in all their wordings", "dim"))
    grid.add_row("rows", f"{report['rows']:,}", Prose("to learn from", "green"))
    grid.add_row("held out", f"{report['held_out']:,}", Prose("the same facts in other words, to measure with", "dim"))
    for kind in ("quarantined", "dropped"):
        for fault, count in report[kind].items():
            grid.add_row(kind, f"{count:,}", Prose(visible(fault), "yellow"))
    for what, about in report["asked_about"].items():
        for fault, count in about["lost"].items():
            grid.add_row(f"no {what}", f"{count:,}", Prose(f"of {about['all']:,}: {visible(fault)}", "yellow"))
        if about["not_asked"]:
            grid.add_row("not asked", f"{about['not_asked']:,}", Prose(f"{what}s: the budget is spent", "yellow"))
    if report["not_asked"]:
        grid.add_row("not asked", f"{report['not_asked']:,}", Prose("questions: the budget is spent", "yellow"))
    if report["follow_ups"]["kept"] or report["follow_ups"]["lost"]:
        lost = sum(report["follow_ups"]["lost"].values())
        grid.add_row(
            "follow-ups", f"{report['follow_ups']['kept']:,}", Prose(f"answered too; {lost:,} without use", "dim")
        )
    for fault, count in report["unread"].items():
        grid.add_row("not read", f"{count:,}", Prose(visible(fault), "yellow"))
    tokens = report["tokens"]
    spent = f", {words.money(report['money'])} spent" if report["money"] else ""
    grid.add_row("replies", f"{report['replies']:,}", Prose(f"{tokens['in'] + tokens['out']:,} tokens{spent}", "dim"))
    return Group(Text(), grid, Text(), Text(f"The rows, what became none, and every reply are in {place}.", "dim"))


def dry_run(path: Path, run: Path | None, overrides: dict[str, Any], *, as_json: bool) -> None:
    """`tunesmith teach --dry-run`."""
    from tunesmith import stages as rooms
    from tunesmith.errors import RecipeError
    from tunesmith.teacher import teach

    folder, recipe = rooms.open_run(path, run, overrides)
    if not recipe.teacher.is_set:
        raise RecipeError(f"{path}: there is no [teacher] in it; `tunesmith init NAME --like teacher` shows one")
    known, money, replies = teach.dry_run(recipe.teacher, recipe.folder(), folder.teacher)
    if as_json:
        print_json({
            "units": known.units, "requests": known.requests,
            "tokens": {"in": known.tokens_in, "out": known.tokens_out},
            "money": money, "replies": replies, "prompts": known.prompts,
        })  # fmt: skip
        return
    console = standard_output()
    for prompt in known.prompts:
        console.rule(style="dim")
        console.print(Text(visible(prompt)))
    console.rule(style="dim")
    from_what = {"documents": "passage", "topics": "request about topics", "questions": "question"}[recipe.teacher.way]
    console.print(
        f"{words.how_many(known.units, from_what)}: about {words.how_many(known.requests, 'request')}, "
        f"{known.tokens_in:,} tokens to read and {known.tokens_out:,} to write",
        soft_wrap=True,
    )
    price = recipe.teacher.price
    if price.input or price.output:
        console.print(
            f"about {words.money(money)}, at {price.input:g} and {price.output:g} for a million", soft_wrap=True
        )
    if replies:
        there = "1 reply of an earlier start is" if replies == 1 else f"{replies:,} replies of an earlier start are"
        console.print(f"{there} there already; what was answered costs nothing", soft_wrap=True)
