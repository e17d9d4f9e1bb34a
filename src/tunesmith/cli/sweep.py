"""`tunesmith sweep`: several values of some settings, a run for every combination, one comparison."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tunesmith import files
from tunesmith.cli import words
from tunesmith.cli.console import print_json, visible
from tunesmith.cli.edge import CONTINUES, UsageError, two_interrupts
from tunesmith.cli.flags import named_settings
from tunesmith.cli.tables import hanging
from tunesmith.cli.view import View
from tunesmith.cli.work import kept_for_json, print_next, quoted
from tunesmith.errors import RunError

if TYPE_CHECKING:
    from tunesmith.stages.sweeping import Member, Sweep

SIGNS = {"done": ("✓", "bold green"), "unchanged": ("✓", "bold green"), "failed": ("✗", "bold red"),
         "stopped": ("!", "bold yellow")}  # fmt: skip


def sweep(recipe: Path, run: Path | None, tokens: Sequence[str], parallel: int, *, as_json: bool) -> None:
    """`tunesmith sweep`. Raises `RunError` behind the table when a run failed."""
    settings = swept_settings(tokens)
    with kept_for_json(as_json) as console:
        from tunesmith.cli.sweep_plot import sweep_svg
        from tunesmith.stages.sweeping import open_sweep

        found = open_sweep(recipe, run, settings)
        with found.lock():
            _carry_out(found, parallel, console)
            comparison = found.compare()
            files.write_text(found.path / "sweep.svg", sweep_svg(comparison))
        if not as_json:
            _show(comparison, found, console)
    if as_json:
        print_json(comparison)
    if failed := [member for member in found.members if member.error]:
        them = f"; the first, {failed[0].name}: {failed[0].error}" if as_json else ", marked ✗ above"
        raise RunError(f"{len(failed)} of {words.how_many(len(found.members), 'run')} did not finish{them}")


def swept_settings(tokens: Sequence[str]) -> dict[str, list[Any]]:
    """Dotted name -> values. Raises `UsageError` for what is no setting, and a setting that is given twice."""
    swept: dict[str, list[Any]] = {}
    for name, text in named_settings(tokens, "sweep"):
        if name in swept:
            raise UsageError(f"--{name} is given twice; write its values together, with commas between them")
        swept[name] = _values(name, text)
    return swept


def _values(name: str, text: str) -> list[Any]:
    """Values with commas between them, or a TOML list of them; for a setting that is a list itself, a list of lists."""
    from tunesmith.settings import every_field, parse_value

    value = parse_value(text)
    if isinstance(value, list):
        is_list = isinstance(every_field().get(name, (None,))[0], tuple)
        several = bool(value) and all(isinstance(item, list) for item in value)
        return [value] if is_list and not several else value
    if value != text or "," not in text:
        return [value]
    listed = parse_value(f"[{text}]")
    if isinstance(listed, list):
        return listed
    parts = [part.strip() for part in text.split(",")]
    if "" in parts:
        raise UsageError(f"--{name} {text}: a value is missing beside a comma")
    return [parse_value(part) for part in parts]


def _carry_out(found: Sweep, parallel: int, console: Console) -> None:
    """Prepare, then every run, under two views. Raises KeyboardInterrupt when Ctrl-C ended it early."""
    with View(console) as view, two_interrupts(view.stop_soon) as stop:
        for progress in found.prepare(stop, view.show):
            if progress.message != "unchanged":
                view.show(progress)
        if not stop():
            found.refuse_too_many(parallel)
    if stop():
        raise KeyboardInterrupt(f"stopped; {CONTINUES}")
    with (
        SweepView(found.members, console) as view,
        two_interrupts(view.stop_soon) as stop,
        contextlib.closing(found.carry_out(parallel, stop)) as changes,  # which ends the processes, whatever happens
    ):
        for changed in changes:
            view.show(changed)
    if stop() and any(member.state in ("waiting", "stopped") for member in found.members):
        ready = sum(member.state in ("done", "unchanged") for member in found.members)
        raise KeyboardInterrupt(f"stopped with {ready} of {len(found.members)} runs finished; {CONTINUES}")


def _show(comparison: dict[str, Any], found: Sweep, console: Console) -> None:
    from tunesmith.cli.sweep_table import sweep_table

    console.print(Text(), sweep_table(comparison, console.width), sep="\n")
    console.print(Text(f"\n{found.path}: sweep.svg, sweep.csv and sweep.json hold it too", "dim"), soft_wrap=True)
    if comparison["best"]:
        best = found.path / comparison["best"]
        print_next(console, {
            f"tunesmith compare {quoted(best)}": "base and the best run side by side",
            f"tunesmith chat {quoted(best)}": "talk to it",
            f"tunesmith export {quoted(best)}": "a GGUF for Ollama, LM Studio and others",
        })  # fmt: skip


class SweepView:
    """The runs as they go: a line for each that works, drawn live in a terminal; else a line for each change."""

    def __init__(self, members: Sequence[Member], console: Console) -> None:
        self.members, self.console = members, console
        self._live: Live | None = None
        self._stopping = False
        self._spinner = Spinner("dots", style="cyan")
        self._said: dict[str, tuple[Any, ...]] = {}
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(self, console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> SweepView:
        for member in self.members:
            if member.state in SIGNS:
                self._ended(member)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, changed: Sequence[Member]) -> None:
        """Draw what changed, and that time goes on."""
        for member in changed:
            if member.state in SIGNS:
                self._ended(member)
            elif not self._live:
                self._line(member)
        if self._live:
            self._live.refresh()

    def stop_soon(self) -> None:
        """Say that Ctrl-C was heard. Called from a signal handler: prints nothing itself."""
        self._stopping = True
        if not self._live:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stopping after these steps ...\n")

    def _ended(self, member: Member) -> None:
        sign, style = SIGNS[member.state]
        loss = f", validation loss {member.valid_loss:.3f}" if member.valid_loss is not None else ""
        self.console.print(hanging(sign, visible(f"{member.name}: {member.error or member.state + loss}"), style))

    def _line(self, member: Member) -> None:
        """At most one at each stage, and at each tenth of the training."""
        tenth = 10 * member.step // member.steps if member.steps and member.stage == "train" else 0
        state = (member.state, member.stage, tenth)
        if self._said.get(member.name) != state:
            self._said[member.name] = state
            what = " · ".join(cell for cell in _cells(member) if cell)
            self.console.print(Text(visible(f"{member.name}: {what}")), soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The moving part."""
        working = [m for m in self.members if m.state == "running" or (m.state == "waiting" and m.stage)]
        grid = Table.grid(padding=(0, 2))
        for _ in range(6):
            grid.add_column(no_wrap=True, overflow="ellipsis")
        room = max(self.console.height - 4, 1)
        for member in working[:room]:
            grid.add_row(self._spinner, Text(visible(member.name), "bold"), *_cells(member))
        counts = {state: sum(m.state == state for m in self.members) for state in ("done", "unchanged", "failed")}
        waiting = sum(member.state == "waiting" for member in self.members)
        told = [f"{count} {state}" for state, count in counts.items() if count] + [f"{waiting} to go"]
        parts: list[RenderableType] = [Text(), grid, Text(" · ".join(told), "dim")]
        if self._stopping:
            parts.append(Text("stopping after these steps … Ctrl-C again stops at once", "bold yellow"))
        return Group(*parts)


def _cells(member: Member) -> tuple[str, str, str, str]:
    """Stage, step, losses, and the time that is left."""
    at = f"{member.step:,}/{member.steps:,}" if member.steps and member.stage == "train" else ""
    losses = [f"loss {member.loss:.3f}"] if member.loss is not None and at else []
    losses += [f"validation {member.valid_loss:.3f}"] if member.valid_loss is not None else []
    left = f"{words.duration(member.seconds_left)} left" if member.seconds_left is not None else ""
    return member.stage or "begins", at, ", ".join(losses), left
