"""`tunesmith lm-eval`: what EleutherAI's lm-eval makes of base and tuned model, side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.cli.console import print_json, visible
from tunesmith.cli.prose import Prose
from tunesmith.cli.view import View
from tunesmith.cli.work import kept_for_json
from tunesmith.progress import Progress

SURE = 1.96
"""Standard errors beyond which a difference is not put down to chance, at 95 %."""
EXPLAINED = (
    "± is lm-eval's standard error. A difference is marked where it is more than 1.96 of both together, which is "
    "careful: both models answered the same questions."
)
TRIED = "Only the first {limit:,} questions of each task: to try it out, not to report."


def lm_eval(run: Path, tasks: tuple[str, ...], *, limit: int | None, chat: bool, as_json: bool) -> None:
    """`tunesmith lm-eval`."""
    with kept_for_json(as_json) as console:
        from tunesmith.export.lm_eval import Asked, entry, measure
        from tunesmith.run import RunFolder

        folder = RunFolder(run)
        named = [name for task in tasks for name in task.split(",") if name]
        # It runs elsewhere: a task that is a file of one's own is named from the top.
        named = [str(Path(name).absolute()) if name.endswith(".yaml") else name for name in named]
        asked = Asked(tuple(named), limit, chat)
        with View(console) as view:
            view.show(Progress("stage", stage="lm-eval", message=", ".join(asked.tasks)))
            try:
                for progress in measure(folder, asked, view.show):
                    view.show(progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("stopped; the same command goes on with the model that is missing") from None
        known = entry(folder, asked)
        if not as_json:
            console.print(scores_table(known["scores"], limit))
            console.print(Text(f"\n{folder.evaluation / 'lm-eval.json'} has all of it", "dim"), soft_wrap=True)
    if as_json:
        print_json({"run": str(folder), **{key: known[key] for key in ("tasks", "limit", "chat", "scores")}})


def scores_table(scores: list[dict[str, Any]], limit: int | None) -> RenderableType:
    """Groups stand for their parts, which are in the file."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    for heading in ("of", "base", "tuned", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in scores:
        if score["part"]:
            continue
        through = "" if score["filter"] == "none" else f" ({score['filter']})"
        table.add_row(
            visible(score["task"]), visible(score["metric"] + through),
            "" if score["n"] is None else f"{score['n']:,}",
            _score(score["base"]), _score(score["tuned"]), _difference(score),
        )  # fmt: skip
    tried = [Prose(TRIED.format(limit=limit), "yellow")] if limit else []
    return Group(table, Prose(EXPLAINED, "dim"), *tried)


def _score(measured: dict[str, Any]) -> str:
    score, error = measured["score"], measured["stderr"]
    return "–" if score is None else f"{score:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _difference(score: dict[str, Any]) -> Text:
    base, tuned = score["base"], score["tuned"]
    if base["score"] is None or tuned["score"] is None:
        return Text("–")
    change = tuned["score"] - base["score"]
    errors = [measured["stderr"] for measured in (base, tuned)]
    style = ""
    if None not in errors and abs(change) > SURE * math.hypot(*errors):
        better = (change > 0) == (score["higher_is_better"] is not False)
        style = "bold green" if better else "bold red"
    return Text(f"{change:+.4f}{' ◆' if style else '  '}", style)
