"""What the commands do between calling a room and printing: this is where stdout is spent."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tunesmith import files
from tunesmith.cli import words
from tunesmith.cli.console import print_json, standard_error, standard_output
from tunesmith.cli.edge import CONTINUES, UsageError, two_interrupts
from tunesmith.cli.fit_table import fit_table, fit_values
from tunesmith.cli.init import CHOICES, Like, write_recipe
from tunesmith.cli.proof_table import proof_table
from tunesmith.cli.tables import report_table, side_by_side, token_legend, token_rows
from tunesmith.cli.teaching import taught_table
from tunesmith.cli.view import View
from tunesmith.cli.where import Where
from tunesmith.errors import CheckFailed
from tunesmith.progress import Progress
from tunesmith.run import STAGES

if TYPE_CHECKING:
    from tunesmith.run import RunFolder
    from tunesmith.settings import Recipe
    from tunesmith.stages.hosts import Hosts


@contextlib.contextmanager
def kept_for_json(as_json: bool) -> Iterator[Console]:
    """With --json, stdout is for one object: what we and the libraries print meanwhile goes to stderr."""
    if not as_json:
        yield standard_output()
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield standard_error()


def run_stages(
    recipe: Path,
    run: Path | None,
    overrides: dict[str, Any],
    *,
    stages: tuple[str, ...],
    fresh: bool,
    as_json: bool,
    where: Where,
) -> None:
    """`tunesmith run`, and each stage alone."""
    with kept_for_json(as_json) as console:
        from tunesmith.stages import open_run

        folder, resolved = open_run(recipe, run, overrides)
        hosts = where.hosts()
        if hosts is not None and not hosts.first:
            if fresh or as_json:
                raise UsageError(f"--fresh and --json go with the first host, {hosts.names[0]}, which keeps the run")
            _take_part(folder, resolved, hosts, console)
            return
        drive(folder, resolved, console, stages=stages, fresh=fresh, hosts=hosts)
        outcome = _outcome(folder, stages)
        if not as_json:
            _show_outcome(console, folder, outcome, stages)
    if as_json:
        print_json(outcome)


def _take_part(folder: RunFolder, recipe: Recipe, hosts: Hosts, console: Console) -> None:
    """Train on this host what another one shows and keeps. Raises KeyboardInterrupt when Ctrl-C ended it early."""
    from tunesmith.stages import take_part

    with View(console) as view, two_interrupts(view.stop_soon) as stop:
        for progress in take_part(folder, recipe, hosts, stop):
            view.show(progress)
        if stop():
            raise KeyboardInterrupt("stopped; the same command takes part again")


def drive(
    folder: RunFolder, recipe: Recipe, console: Console, *, stages: tuple[str, ...], fresh: bool,
    hosts: Hosts | None = None,
) -> None:  # fmt: skip
    """Run the stages under a view. Raises KeyboardInterrupt when Ctrl-C ended them early."""
    from tunesmith import stages as rooms

    last = None
    earlier = () if fresh else folder.events()
    with View(console, earlier) as view, two_interrupts(view.stop_soon) as stop:
        for last in rooms.run(folder, recipe, stages=stages, fresh=fresh, stop=stop, notify=view.show, hosts=hosts):
            if not (stages in (("prepare",), ("teach",)) and last.event == "note"):  # the table will say it
                view.show(last)
    # A stage that was skipped says only "stage"; one that was cut short never says "end".
    finished = last is None or bool(
        last.stage == stages[-1] and (last.event == "end" or (last.event == "stage" and last.message))
    )
    if stop() and not finished:
        at = f" after step {last.step:,}" if last and last.step else ""
        stage = last.stage if last else ""
        again = {
            "prepare": "the same command prepares again",
            "export": "finished files stay; the same command goes on",
        }
        raise KeyboardInterrupt(f"stopped{at}; {again.get(stage, CONTINUES)}")


def _outcome(folder: RunFolder, stages: tuple[str, ...]) -> dict[str, Any]:
    from tunesmith import stages as rooms

    outcome: dict[str, Any] = {"run": str(folder), "stages": list(stages)}
    if stages == ("teach",):
        outcome["taught"] = rooms.taught(folder)
    if "prepare" in stages:
        outcome["report"] = rooms.report(folder)
    if "train" in stages:
        outcome["adapter"] = str(folder.adapter)
    if "evaluate" in stages and rooms.report(folder)["rows"]["test"]:
        outcome["results"] = rooms.results(folder)
    if "export" in stages and (proofs := rooms.proofs(folder)):
        outcome["proofs"] = proofs
    return outcome


def _show_outcome(console: Console, folder: RunFolder, outcome: dict[str, Any], stages: tuple[str, ...]) -> None:
    if "taught" in outcome:
        console.print(taught_table(outcome["taught"], str(folder.teacher)))
    elif "results" in outcome:
        from tunesmith.cli.results_table import ResultsTable

        console.print(ResultsTable(outcome["results"]))
    elif stages == ("prepare",):
        console.print(report_table(outcome["report"], f"The files named here are in {folder.dataset}."))
    if "proofs" in outcome:
        console.print(proof_table(outcome["proofs"]))
    if stages == ("teach",):
        hints = {f"tunesmith run {quoted(folder)}": "prepare, train and evaluate on what was taught"}
    elif stages == ("train",):
        hints = {f"tunesmith evaluate {quoted(folder)}": "measure it"}
    elif stages == ("prepare",):
        hints = {f"tunesmith train {quoted(folder)}": "train on these rows"}
    else:
        hints = {
            f"tunesmith compare {quoted(folder)}": "base and tuned side by side",
            f"tunesmith chat {quoted(folder)}": "talk to it",
            f"tunesmith export {quoted(folder)}": "a GGUF for Ollama, LM Studio and others, proved to be this model",
        }
    print_next(console, hints)


def quoted(path: object) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def print_next(console: Console, hints: dict[str, str]) -> None:
    hints = {command.replace("tunesmith", _program(), 1): what for command, what in hints.items()}
    width = max(len(command) for command in hints)
    console.print()
    for command, what in hints.items():
        if 5 + width + len(max(hints.values(), key=len)) <= console.width:
            line = Text.assemble(("  " + command.ljust(width), "bold cyan"), ("   " + what, "dim"))
        else:
            line = Text.assemble((f"  {what}:\n", "dim"), ("    " + command, "bold cyan"))
        console.print(line, soft_wrap=True)  # a command is copied: it must not be broken


def _program() -> str:
    """What a person types to start us again: `make demo` runs us from an environment that is not active."""
    if shutil.which("tunesmith"):
        return "tunesmith"
    path = Path(sys.argv[0]).absolute()
    if path.name == "__main__.py":
        return f"{Path(sys.executable).name} -m tunesmith"
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def demo(path: Path, *, as_json: bool) -> None:
    """`tunesmith demo`: the whole road, then three questions that were kept out."""
    from tunesmith.cli.results_table import ResultsTable
    from tunesmith.demo.demo import prepare_demo
    from tunesmith.stages import open_run

    with kept_for_json(as_json) as console:
        folder, recipe = open_run(prepare_demo(path / "sample"), path, {})
        drive(folder, recipe, console, stages=STAGES, fresh=False)
        outcome = _outcome(folder, STAGES)
        comparisons = _compared(folder, [], console, as_json=as_json)
        if not as_json:
            console.print(ResultsTable(outcome["results"]))
            print_next(console, {
                f"tunesmith chat {quoted(folder)}": "talk to it",
                f'tunesmith compare {quoted(folder)} "How many customers live in Madrid?"': "ask both models",
                f"tunesmith check {quoted(folder)}": "see the rows as the model sees them",
                f"tunesmith export {quoted(folder)}": "a GGUF for Ollama and others, proved to be this model",
                f"ls {quoted(folder)}": "everything about this run, as files",
            })  # fmt: skip
    if as_json:
        print_json({**outcome, "comparisons": comparisons})


def init(folder: Path, like: Like | None) -> None:
    """`tunesmith init`. Without ``like`` the choices are shown, and the exit status is that of wrong usage."""
    if like is None:
        print_next(standard_error(), {
            f"tunesmith init {quoted(folder)} --like {choice}": what for choice, what in CHOICES.items()
        })  # fmt: skip
        raise UsageError("say with --like what you have, as above")
    recipe = write_recipe(folder, like)
    console = standard_output()
    console.print(Text.assemble(("✓ ", "bold green"), f"{recipe}: say in it where your data is, then"))
    taught = {
        f"tunesmith teach {quoted(recipe)} --dry-run": "the first prompts, and what all of them would cost",
        f"tunesmith teach {quoted(recipe)}": "have the teacher write the rows",
    }
    print_next(console, {
        **(taught if like == "teacher" else {}),
        f"tunesmith check {quoted(recipe)}": "what the model would see, and what is wrong with the data",
        f"tunesmith run {quoted(recipe)}": "prepare, train, evaluate",
    })  # fmt: skip


def check(path: Path, overrides: dict[str, Any], *, rows: int, html: Path | None, as_json: bool) -> None:
    """`tunesmith check`. Raises `CheckFailed` when a finding is an error."""
    with kept_for_json(as_json) as console:
        from tunesmith import stages as rooms

        folder, recipe = rooms.open_run(path, None, overrides)
        recipe = rooms.with_taught(folder, recipe)
        with View(console) as view:
            found = rooms.check(
                recipe, max(rows, 20 if html else 0), lambda p: None if p.event == "fits" else view.show(p)
            )
        if html:
            from tunesmith.cli.page import check_page

            files.write_text(html, check_page(found.report, found.samples, str(path), found.fit))
        if not as_json:
            for sample in found.samples[:rows]:
                console.print(token_rows(sample.origin, sample.tokens))
            if found.samples and rows:
                console.print(Text(), token_legend(), Text(), sep="\n")
            console.print(
                report_table(found.report, f"`tunesmith prepare {quoted(path)}` writes the files named here.")
            )
            if found.fit:
                console.print(fit_table(found.fit))
            if html:
                console.print(Text.assemble(("✓ ", "bold green"), f"{html}: open it in a browser"), soft_wrap=True)
    if as_json:
        samples = [
            {"origin": s.origin, "question": s.question, "tokens": [list(token) for token in s.tokens]}
            for s in found.samples[:rows]
        ]
        print_json({"report": found.report, "samples": samples, "fit": found.fit and fit_values(found.fit)})
    errors = [f["message"] for f in found.report["findings"] if f["severity"] == "error"]
    if found.fit and found.fit.lacking:
        errors.append(f"the training does not fit: {found.fit.lacking}; {found.fit.advice}")
    if errors:
        them = f"; the first: {errors[0]}" if as_json else ", marked ✗ above"
        raise CheckFailed(f"{words.how_many(len(errors), 'finding')} to mend before training{them}")


def compare(path: Path, questions: list[str], *, as_json: bool) -> None:
    """`tunesmith compare`."""
    with kept_for_json(as_json) as console:
        from tunesmith.run import RunFolder

        folder = RunFolder(path)
        folder.recipe()  # says so when this is no run folder, before a model is loaded
        comparisons = _compared(folder, questions, console, as_json=as_json)
    if as_json:
        print_json({"run": str(folder), "comparisons": comparisons})


def _compared(folder: RunFolder, questions: list[str], console: Console, *, as_json: bool) -> list[dict[str, Any]]:
    """Both models' answers, each shown as it comes."""
    from tunesmith.serving.answers import compare as answers

    comparisons: list[dict[str, Any]] = []
    with View(console) as view:
        view.show(Progress("stage", stage="compare"))
        for comparison in answers(folder, questions, notify=view.show):
            comparisons.append(asdict(comparison))
            if not as_json:
                view.keep(side_by_side(**comparisons[-1]))
    return comparisons
