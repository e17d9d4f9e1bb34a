"""``evaluation/report.html``: an evaluation as one page that works without a network, and its plots as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tunesmith import files
from tunesmith.evaluation import report_examples
from tunesmith.evaluation.report_curves import Curves, smooth, table, thin
from tunesmith.evaluation.report_plots import STYLE, Bar, Group, Line, Plot, interval_plot, line_plot, points
from tunesmith.pages.template import render
from tunesmith.pages.words import how_many, probability
from tunesmith.progress import Progress

WIDTHS = (720, 340)
"""Pixels of a plot on a screen and on a phone, where a wide one made small could not be read."""

MEANINGS = {
    "sql": "right: the query selects the same rows as the reference",
    "exact": "right: the reference, character by character",
    "normalised": "right: the reference, but for case, spaces and punctuation",
    "contains": "right: the reference stands somewhere in the answer",
    "overlap": "how many words the answer has in common with the reference (F1)",
    "number": "right: the last number is the reference's",
    "choice": "right: of all choices the model finds the right one likeliest",
    "json": "right: JSON that keeps to the schema",
    "judge": "how often a judge model prefers the answer to the base's, asked in both orders; 50 % would be a draw",
    "function": "graded by the recipe's own function",
}
"""What a score counts."""


LANGUAGES = {"en": "all in English", "zh": "all in Chinese"}
"""How the general questions are counted once more, beside their kinds."""


class Sentence(Protocol):
    """What the numbers say, in words; tone is "good", "bad", "unsure" or "note"."""

    @property
    def text(self) -> str: ...
    @property
    def tone(self) -> str: ...


class Measured(NamedTuple):
    """A model's score in one task, as the table shows it."""

    model: str
    score: float | None
    """None where no answer could be graded."""
    interval: Sequence[float] | None
    n: int
    ungraded: int
    difference: dict[str, Any] | None
    """From base (of a judge: from one half); None for base itself."""
    agreement: float | None
    """Of a judge: how often it says the same in both orders."""

    @property
    def between(self) -> str:
        known = self.score is not None and self.interval
        return f"{100 * known[0]:.1f} to {100 * known[1]:.1f} %" if known else ""


class Task(NamedTuple):
    """A task, or the general set, with every model that was asked."""

    name: str
    meaning: str
    models: list[Measured]

    @property
    def title(self) -> str:
        return f"{self.name}, {how_many(max(m.n for m in self.models), 'question')}"


def write_report(
    folder: Path, title: str, results: Sequence[dict[str, Any]], samples: Iterable[dict[str, Any]],
    events: Iterable[Progress], about: dict[str, Any], verdict: Sequence[Sentence],
) -> None:  # fmt: skip
    """Write report.html, loss.svg and scores.svg into ``folder``; a plot of nothing is not there afterwards.

    ``results`` and ``samples`` are what results.json and samples.jsonl hold, ``events`` those of the run's
    progress.jsonl. ``about`` tells what was measured: {"base": name, "date": text, "rows": {part: count}, "settings":
    {name: value}}, of which any may be missing. ``verdict`` begins with what matters most.
    """
    curves, groups = Curves.of(events), [*_tasks(results), *_general_task(results)]
    for name, plot in (("loss.svg", _loss_plot(curves)), ("scores.svg", _scores_plot(groups))):
        if plot:
            files.write_text(folder / name, plot.alone())
        else:
            (folder / name).unlink(missing_ok=True)
    files.write_text(folder / "report.html", report_page(title, results, samples, curves, about, verdict))


def report_page(
    title: str, results: Sequence[dict[str, Any]], samples: Iterable[dict[str, Any]], curves: Curves,
    about: dict[str, Any], verdict: Sequence[Sentence],
) -> str:  # fmt: skip
    """The page; see `write_report`."""
    tasks, general = _tasks(results), _general_task(results)
    examples = report_examples.pair(samples)
    return render(
        "evaluation/report.html",
        title=title, verdict=verdict, about=about, plot_style=STYLE, points=points, said=said, sure=_sure,
        tasks=tasks, general=general, kinds=_kinds(results), memorised=_find(results, "tuned").get("memorised"),
        scores=_drawn(lambda width: _scores_plot([*tasks, *general], width)),
        differences=_drawn(lambda width: _differences_plot([*tasks, *general], width)),
        losses=_drawn(lambda width: _loss_plot(curves, width)), loss_table=table(curves), curves=curves,
        checkpoints=_checkpoints(results, curves), tests=_drawn(lambda width: _test_plot(results, curves, width)),
        cards=report_examples.cards(examples), examples=len(examples), counts=report_examples.counts(examples),
        outcomes=report_examples.OUTCOMES,
    )  # fmt: skip


def _find(results: Sequence[dict[str, Any]], model: str) -> dict[str, Any]:
    return next((result for result in results if result["model"] == model), {})


# -- scores --------------------------------------------------------------------------------------


def _tasks(results: Sequence[dict[str, Any]]) -> list[Task]:
    names = dict.fromkeys(name for result in results for name in result.get("tasks", {}))
    return [Task(name, MEANINGS.get(name, ""), _models(results, lambda r, of=name: r.get("tasks", {}).get(of)))
            for name in names]  # fmt: skip


def _general_task(results: Sequence[dict[str, Any]]) -> list[Task]:
    models = _models(results, lambda result: result.get("general"))
    return [Task("general", "", models)] if models else []


def _models(results: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], dict[str, Any] | None]) -> list[Measured]:
    found = [(result["model"], of(result)) for result in results]
    return [
        Measured(model, value["score"], value.get("interval"), value["n"], value.get("ungraded", 0),
                 value.get("difference") if value["n"] else None, value.get("agreement"))
        for model, value in found if value
    ]  # fmt: skip


def said(difference: dict[str, Any]) -> str:
    """What a difference amounts to, in words."""
    if difference["verdict"] != "not distinguishable":
        return f"{difference['verdict']} by {abs(100 * difference['mean']):.1f} points"
    needed, n = difference.get("needed"), difference["n"]
    more = f"; a difference of this size would show with about {needed:,} questions" if needed and needed > n else ""
    return f"not distinguishable at n = {n:,}{more}"


def _sure(difference: dict[str, Any]) -> str:
    """How sure that is: the chance of it, and what it rests on."""
    clusters, n = difference.get("clusters"), difference["n"]
    groups = f", in {clusters:,} groups" if clusters and clusters != n else ""
    return f"{probability(difference['p_value'])}; {how_many(n, 'question')}{groups}"


def _kinds(results: Sequence[dict[str, Any]]) -> list[tuple[str, int, float | None, float | None]]:
    """Of every kind of general question: (kind, how many, score of base, score of tuned)."""
    base: dict[str, Any] = _find(results, "base").get("general", {}).get("by", {})
    tuned: dict[str, Any] = _find(results, "tuned").get("general", {}).get("by", {})
    return [
        (
            LANGUAGES.get(kind, kind),
            (tuned.get(kind) or base[kind])["n"],
            base.get(kind, {}).get("score"),
            tuned.get(kind, {}).get("score"),
        )
        for kind in dict.fromkeys([*base, *tuned])
    ]


# -- plots ---------------------------------------------------------------------------------------


def _drawn(plot: Callable[[int], Plot | None]) -> list[Plot]:
    return [drawn for drawn in map(plot, WIDTHS) if drawn]


def _kind(model: str) -> str:
    """The class of its colour."""
    return model.replace("+", "-") if model.partition("+")[0] in ("base", "tuned") else "base"


def _scores_plot(tasks: Sequence[Task], width: int = WIDTHS[0]) -> Plot | None:
    groups = [
        Group(task.title, [
            Bar(m.model, _kind(m.model), m.score, m.interval, f"{100 * m.score:.1f} %",
                f"({m.between})" if m.interval else "")
            for m in task.models if m.score is not None
        ]) for task in tasks
    ]  # fmt: skip
    groups = [group for group in groups if group.bars]
    told = "; ".join(f"{g.title}: {', '.join(f'{b.name} {b.said}' for b in g.bars)}" for g in groups)
    return interval_plot(f"Scores with 95 % intervals. {told}", groups, width) if groups else None


def _differences_plot(tasks: Sequence[Task], width: int) -> Plot | None:
    groups = [
        Group(task.title, [
            Bar(m.model, _kind(m.model), m.difference["mean"], m.difference["interval"], points(m.difference["mean"]),
                m.difference["verdict"])
            for m in task.models if m.difference
        ]) for task in tasks
    ]  # fmt: skip
    groups = [group for group in groups if group.bars]
    told = "; ".join(f"{g.title}, {b.name}: {b.said} points, {b.more}" for g in groups for b in g.bars)
    label = f"Differences from base in percentage points, with 95 % intervals. {told}"
    return interval_plot(label, groups, width, differences=True) if groups else None


AXIS = "loss, nats per learned token"


def _loss_plot(curves: Curves, width: int = WIDTHS[0]) -> Plot | None:
    if not curves.train:
        return None
    means, over = smooth(curves.train)
    lines = [Line(f"training, mean of {over} steps" if over > 1 else "training", "tuned", thin(means))]
    if over > 1:
        lines.insert(0, Line("training, each step", "tuned", thin(curves.train), "raw"))
    if curves.valid:
        lines.append(Line("validation", "valid", curves.valid, "curve dashed", dots=len(curves.valid) <= 40))
    label = f"Loss of the training by step, from {means[0][1]:.3f} to {means[-1][1]:.3f}"
    if curves.valid:
        step, lowest = min(curves.valid, key=lambda point: point[1])
        label += f"; the lowest of the validation is {lowest:.3f} at step {step:,}"
    return line_plot(label, AXIS, lines, width, _chosen(curves, dict(curves.valid)))


def _test_plot(results: Sequence[dict[str, Any]], curves: Curves, width: int) -> Plot | None:
    """Loss of every checkpoint on the test rows; that of base would flatten the rest, and stands in the table."""
    losses = dict(sorted((step, r["loss"]) for r in results if r.get("loss") and (step := _step(r, curves))))
    if len(losses) < 2:
        return None
    label = "Test loss by step: " + ", ".join(f"{loss:.3f} at step {step:,}" for step, loss in losses.items())
    lines = [Line("test", "tuned", list(losses.items()), dots=True)]
    return line_plot(label, AXIS, lines, width, _chosen(curves, losses))


def _chosen(curves: Curves, losses: dict[int, float]) -> tuple[int, float | None] | None:
    return None if curves.chosen is None else (curves.chosen, losses.get(curves.chosen))


# -- checkpoints ---------------------------------------------------------------------------------


def _step(result: dict[str, Any], curves: Curves) -> int | None:
    """The step that a model stands at; 0 for base, None where it is not known."""
    name, _, number = result["model"].partition("-")
    if name == "step" and number.isdecimal():
        return int(number)
    return {"base": 0, "tuned": curves.chosen}.get(result["model"])


def _checkpoints(results: Sequence[dict[str, Any]], curves: Curves) -> list[dict[str, Any]]:
    """Every model whose loss was measured, by step: the chosen checkpoint and the result are one, where both are."""
    valid, tuned = dict(curves.valid), _find(results, "tuned")
    rows = list[dict[str, Any]]()
    for result in results:
        step = _step(result, curves)
        chosen = step is not None and step == curves.chosen
        if result.get("loss") is None or (chosen and result is not tuned and tuned.get("loss") == result["loss"]):
            continue
        name = result["model"] if not step else f"step {step:,}{' = tuned' if result is tuned else ''}"
        rows.append({"name": name, "step": step, "loss": result["loss"], "perplexity": result["perplexity"],
                     "valid": None if step is None else valid.get(step), "chosen": chosen})  # fmt: skip
    return sorted(rows, key=lambda row: float("inf") if row["step"] is None else row["step"])
