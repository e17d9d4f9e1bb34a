"""Reports, answers side by side and rows of tokens, as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.answers import Answers
from tunesmith.cli.console import visible
from tunesmith.cli.prose import Prose

EIGHTHS = " ▏▎▍▌▋▊▉█"
SIGNS = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "note": ("•", "cyan")}


def bar(share: float, width: int) -> str:
    """A bar of ``width`` cells, filled to an eighth of a cell; the empty part is dotted."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    filled = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
    return filled + "·" * (width - len(filled))


# -- the report of prepare and check -------------------------------------------------------------


SOURCES = 20
"""So many sources are named in the terminal; report.json has all."""


def report_table(report: dict[str, Any], place: str) -> RenderableType:
    """What became of every input, how many tokens there are, and what to look at. ``place``: where the files are that
    are named in it, in a sentence."""
    rows, tokens = report["rows"], report["tokens"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", style="bold", no_wrap=True)
    grid.add_column()
    most = max([*rows.values(), 1])
    grid.add_row("read", f"{report['inputs']:,}", Prose("rows and documents", "dim"))
    if report["divided"]:
        grid.add_row("divided", f"+{report['divided']:,}", Prose("from documents too long for one row", "dim"))
    for part, name in (("train", "to train"), ("valid", "to validate"), ("test", "to test")):
        grid.add_row(name, f"{rows.get(part, 0):,}", Text(bar(rows.get(part, 0) / most, 24), "cyan"))
    for key, name, why, style in (
        ("quarantined", "quarantined", "each with its reason in quarantine.jsonl", "yellow"),
        ("merged", "merged", "repeat another row exactly, listed in removed.jsonl", "dim"),
        ("removed", "removed", "each with its reason in removed.jsonl", "dim"),
    ):
        if report[key]:
            grid.add_row(name, f"{report[key]:,}", Prose(why, style))
    share = tokens["learned"] / tokens["train"] if tokens["train"] else 0.0
    grid.add_row("tokens", f"{tokens['train']:,}", Text(f"{words.percent(share)} of them learned", "dim"))
    grid.add_row("longest row", f"{tokens['longest']:,}", Text("tokens, of all rows", "dim"))
    if report["cut"]["rows"]:
        grid.add_row("cut", f"{report['cut']['rows']:,}", _cut(report["cut"]))
    changed = any(report[key] for key in ("divided", "merged", "removed"))
    accounts = [Text(), Accounts(report)] if len(report["sources"]) > 1 or (report["sources"] and changed) else []
    findings = [_finding(finding) for finding in report["findings"]]
    named = any(report.get(key) for key in ("quarantined", "merged", "removed", "preferences"))
    named = named or report["cut"]["rows"] > 3
    where = [Text(), Prose(place, "dim")] if named else []
    return Group(grid, *accounts, *([Text(), *findings] if findings else []), *where)


class Accounts:
    """What became of the inputs of every source. Every line adds up: inputs + divided are the sum of the
    others. Where it is narrow the ways of not being used stand in one column, then only the rows are told."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.all = report | {"source": "all", "rows": sum(report["rows"].values())}
        self.sources: Sequence[dict[str, Any]] = report["sources"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fates = ["quarantined", "merged", "removed"]
        divided = ["divided"] if self.all["divided"] else []
        for columns in (["inputs", *divided, "rows", *fates], ["inputs", *divided, "rows", "not used"], ["rows"]):
            table = self._table(columns)
            if console.measure(table, options=options.update_width(1000)).minimum <= options.max_width:
                break
        yield table
        if len(self.sources) > SOURCES:
            yield Text(f"… and {len(self.sources) - SOURCES:,} more sources in report.json", "dim")

    def _table(self, columns: Sequence[str]) -> Table:
        names = [visible(s["source"]) for s in self.sources[:SOURCES]]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("source", min_width=min(max(map(cell_len, names)), 24))
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True, min_width=cell_len(column))
        for name, source in zip(names, self.sources, strict=False):
            table.add_row(Prose(name), *(f"{_counted(source, column):,}" for column in columns))
        if len(self.sources) > 1:
            table.add_row("all", *(f"{_counted(self.all, column):,}" for column in columns), style="bold")
        return table


def _counted(account: dict[str, Any], column: str) -> int:
    return (
        sum(account[key] for key in ("quarantined", "merged", "removed")) if column == "not used" else account[column]
    )


def _cut(cut: dict[str, Any]) -> Prose:
    shown = [f"{visible(c['origin'])} lost {c['lost']:,} of {c['tokens']:,} tokens" for c in cut["worst"][:3]]
    more = f"\n… and {cut['rows'] - 3:,} more in cut.jsonl" if cut["rows"] > 3 else ""
    return Prose("\n".join(shown) + more, "yellow")


def _finding(finding: dict[str, Any]) -> RenderableType:
    sign, style = SIGNS.get(finding["severity"], SIGNS["note"])
    return hanging(sign, visible(finding["message"]), style)


def hanging(sign: str, message: str, style: str) -> RenderableType:
    """A sign and a message whose further lines stay right of it."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style=style)
    grid.add_row(sign, Prose(message))
    return grid


# -- answers -------------------------------------------------------------------------------------


def side_by_side(question: str, base: str, tuned: str, reference: str | None) -> RenderableType:
    """Both models' answers to one question; ✓ where an answer is the reference, word for word."""
    parts: list[RenderableType] = [Text(), hanging("›", visible(question.strip()), "bold cyan")]
    parts.append(Answers(base, tuned, reference))
    if reference is not None:
        parts.append(hanging("reference", visible(reference.strip()), "dim"))
    return Group(*parts)


# -- rows of tokens ------------------------------------------------------------------------------

LEARNED = ("white on #14532d underline", "white on #166534 underline")
"""Two greens in turn tell neighbours apart; underlined for eyes and terminals without colour."""
SPECIAL = "bold magenta"
BETWEEN = Text("│", "dim")


def token_rows(origin: str, tokens: Sequence[tuple[str, bool, bool]]) -> RenderableType:
    """One row as the model sees it, from (text, learned, special) of each token.

    Tokens are kept apart by │, what is learned stands in ⟦ ⟧, a newline is ⏎ and also breaks the line.
    """
    row = Text(overflow="fold")
    before = False
    for number, (text, learned, special) in enumerate(tokens):
        if learned != before:
            row.append("⟦" if learned else "⟧", "bold green")
        elif number and not row.plain.endswith("\n"):
            row.append_text(BETWEEN)
        style = LEARNED[number % 2] if learned else ""
        row.append(
            _pictured(text),
            f"{style} {SPECIAL}" if special and not learned else f"{style} bold" if special else style,
        )
        before = learned
        if text.endswith("\n") and number + 1 < len(tokens):
            row.append("\n")
    if before:
        row.append("⟧", "bold green")
    learned_count = sum(learned for _, learned, _ in tokens)
    title = f"{visible(origin)}  {words.how_many(len(tokens), 'token')}, {learned_count:,} learned"
    return Group(Text(), Text(title, "bold"), row)


def token_legend() -> Text:
    """What the marks of `token_rows` mean."""
    return Text.assemble(
        ("⟦", "bold green"), ("learned", LEARNED[0]), ("⟧", "bold green"), "   read only   ",
        ("special token", SPECIAL), "   ", BETWEEN, " between two tokens   ⏎ newline",
    )  # fmt: skip


def _pictured(text: str) -> str:
    return visible(text).replace("\n", "⏎").replace("\t", "⇥")
