"""Progress drawn live in a terminal, or as plain lines where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import standard_output, visible
from tunesmith.cli.lines import Lines, asked, fits, measured, stopping
from tunesmith.cli.plot import BEST, MARK, loss_plot
from tunesmith.cli.prose import Prose
from tunesmith.cli.state import ProgressState
from tunesmith.cli.tables import hanging
from tunesmith.progress import Progress

FRAMES_PER_SECOND = 4
"""A frame costs 5 ms on a slow core: 2 % of it."""


class View:
    """Shows events as they come: ``with View() as view: view.show(progress)``.

    ``earlier`` are the events of a run that is now continued; their losses are in the plot.
    """

    def __init__(
        self,
        console: Console | None = None,
        earlier: Iterable[Progress] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or standard_output()
        self.state = ProgressState(clock)
        self.state.recall(earlier)
        self._lines: Lines | None = None
        self._live: Live | None = None
        self._stopping = False
        self._spinner = Spinner("dots", style="cyan")
        # rich's own refreshing thread mixes its lines with ours when both print: here one lock guards both.
        self._lock, self._left = threading.RLock(), threading.Event()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(self, console=self.console, auto_refresh=False, transient=True)
        else:
            self._lines = Lines(self.console, self.state)

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
            threading.Thread(target=self._refresh, args=(self._live,), daemon=True).start()
        return self

    def _refresh(self, live: Live) -> None:
        while not self._left.wait(1 / FRAMES_PER_SECOND):
            with self._lock:
                if not self._left.is_set():
                    live.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._left.set()
        if not self._live:
            return
        with self._lock:
            self._live.stop()
            if self.state.stage == "train" and self.state.latest:
                self._keep(self.picture())  # training was cut short: what was reached stays on the screen

    def show(self, progress: Progress) -> None:
        """Draw one event."""
        with self._lock:
            self.state.take(progress)
            if self._lines:
                self._lines.show(progress)
            else:
                self._show_live(progress)

    def _show_live(self, progress: Progress) -> None:
        """Print what stays; everything else is in the next frame."""
        if progress.event == "stage":
            self._keep(self._heading(progress))
        elif progress.event == "fits":
            self._keep(hanging("✓", fits(progress), "bold green"))
        elif progress.event == "note":
            self._keep(hanging("!", visible(progress.message), "bold yellow"))
        elif progress.event == "measured":
            self._keep(hanging("•", measured(progress), "bold green"))
        elif progress.event == "start" and progress.message:
            self._keep(hanging("↻", visible(progress.message), "bold cyan"))
        elif progress.event == "end":
            self._end(progress)

    def stop_soon(self) -> None:
        """Say that Ctrl-C was heard. Called from a signal handler: prints nothing itself."""
        self._stopping = True
        if self._lines:
            self._lines.stop_soon()

    # -- what stays on the screen ----------------------------------------------------------------

    def keep(self, what: RenderableType) -> None:
        """Print something above what moves."""
        with self._lock:
            self._keep(what)

    def _keep(self, what: RenderableType) -> None:
        self.console.print(what)

    def _heading(self, progress: Progress) -> RenderableType:
        message = f" · {visible(progress.message)}" if progress.message else ""
        title = Text.assemble((progress.stage, "bold"), (message, "dim"))
        return Group(Text(), Rule(title, align="left", style="dim"))

    def _end(self, progress: Progress) -> None:
        message = f" · {visible(progress.message)}" if progress.message else ""
        done = f"{progress.stage} done in {words.duration(self.state.stage_seconds)}{message}"
        parts = [hanging("✓", done, "bold green")]
        if self.state.latest:
            parts = [Text(), self.picture(), *parts]
        self.state.stage, self.state.latest = "", None
        self._keep(Group(*parts))

    # -- what moves ------------------------------------------------------------------------------

    def __rich__(self) -> RenderableType:
        """The moving part, drawn anew several times a second."""
        state = self.state
        parts: list[RenderableType] = []
        if state.stage == "train" and state.steps:
            parts += [Text(), self._bar(state.step, state.steps, self._time_left())]
            if state.latest:
                parts += [Text(), self.picture()]
        if state.asked:
            parts += self._asking(state.asked)
        elif state.working:
            parts.append(self._working(state.working))
        elif not state.latest:
            what = {"": "getting ready", "train": "before the first step"}.get(state.stage, state.stage)
            parts.append(self._spinning(f"{what} · {words.duration(state.stage_seconds)}"))
        if self._stopping:
            parts.append(Text(f"{stopping(state.stage)} … Ctrl-C again stops at once", "bold yellow"))
        return Group(*parts)

    def _time_left(self) -> str:
        return _left(self.state.seconds_left)

    def _bar(self, done: float, total: float, after: str) -> RenderableType:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        for _ in range(3):
            grid.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total, done, complete_style="cyan", finished_style="green")
        grid.add_row(
            bar,
            f"{done:,.0f}/{total:,.0f}",
            Text(words.percent(done / total), "bold"),
            Text(after, "bold cyan"),
        )
        return grid

    def _working(self, working: Progress) -> RenderableType:
        message = visible(working.message) or "working"
        if not working.total:
            return self._spinning(message)
        return Group(
            self._spinning(message), self._bar(working.done or 0, working.total, _left(self.state.working_left))
        )

    def _asking(self, now: Progress) -> list[RenderableType]:
        """A teacher: how far it is, and what it wrote last."""
        readings = Table.grid(padding=(0, 1))
        readings.add_row(self._spinner, Prose(asked(now), "dim"))  # over two lines, where one would cut the money off
        parts: list[RenderableType] = [self._bar(now.done or 0, max(1, now.total or 0), ""), readings]
        for mark, text in (("?", now.question), ("=", now.answer)):
            if text:
                line = Text(f"{mark} {visible(' '.join(text.split()))}", "dim", no_wrap=True, overflow="ellipsis")
                parts.append(line)
        return parts

    def _spinning(self, message: str) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(self._spinner, Text(message, "dim", no_wrap=True, overflow="ellipsis"))
        return grid

    def picture(self) -> RenderableType:
        """The plot and the newest numbers."""
        state, width = self.state, min(self.console.width, 100)
        parts: list[RenderableType] = []
        height = min(8, self.console.height - 14)
        if height >= 3 and len(state.losses) > 1:
            steps = max(state.steps, state.losses[-1][0])
            parts += [
                loss_plot(state.losses, state.validations, steps, width, height),
                self._legend(),
                Text(),
            ]
        parts.append(self._readings(width))
        return Group(*parts)

    def _legend(self) -> Text:
        legend = Text("      ▇ loss", "dim", no_wrap=True, overflow="ellipsis")
        if self.state.validations:
            legend.append(f"   {MARK} validation")
        if self.state.best:
            legend.append(f"   {BEST}", "bold yellow").append(
                f" best: {self.state.best.loss:.3f} at step {self.state.best.step:,}"
            )
        return legend

    def _readings(self, width: int) -> RenderableType:
        readings = self._values()
        across = max(1, min(width // 26, 3))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(across):
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(style="bold", no_wrap=True)
        for start in range(0, len(readings), across):
            grid.add_row(*(cell for reading in readings[start : start + across] for cell in reading))
        return grid

    def _values(self) -> list[tuple[str, str]]:
        state, now = self.state, self.state.latest
        loss, validation = state.smooth_loss(), state.validations[-1].loss if state.validations else None
        values = [("loss", loss, ".3f"), ("validation", validation, ".3f")]
        readings = [(name, format(value, spec)) for name, value, spec in values if value is not None]
        if now is None:
            return readings
        if now.epoch is not None:
            readings.append(("epoch", f"{now.epoch:.2f}"))
        if now.tokens_per_second is not None:
            readings.append(("tokens/s", f"{now.tokens_per_second:,.0f}"))
        if now.learning_rate is not None:
            readings.append(("learning rate", words.rate(now.learning_rate)))
        if now.gradient_norm is not None:
            readings.append(("gradient", f"{now.gradient_norm:.2f}"))
        if now.memory:
            readings.append(("memory", words.size(now.memory)))
        if state.saved:
            readings.append(("saved", state.saved))
        return readings


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{words.duration(seconds)} left"
