"""Progress as plain lines, for logs and pipes: few, whole, and without escape codes."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import visible
from tunesmith.cli.state import ProgressState
from tunesmith.progress import Progress


class Lines:
    """A line at each start, each validation and each tenth of the way."""

    def __init__(self, console: Console, state: ProgressState) -> None:
        self.console, self.state = console, state
        self._tenth = -1
        self._spoke = state.clock()
        self._said = "", ""

    def show(self, progress: Progress) -> None:
        """Print one event, when it is worth a line. The state has taken it already."""
        event, message = progress.event, visible(progress.message)
        if event == "step":
            self._step()
        elif event == "working":
            self._working(progress)
        elif event == "asked":
            self._asked(progress)
        elif event == "stage":
            self._tenth = -1
            self._say(progress.stage, message or "begins")
        elif event == "start" and message:
            self._say("train", message)
        elif event == "validation" and progress.loss is not None:
            best = ", the best so far" if progress.best else ""
            self._say("train", f"step {self.state.step:,}: validation loss {progress.loss:.3f}{best}")
        elif event == "measured":
            self._say(progress.stage or "evaluate", measured(progress))
        elif event == "fits":
            self._say(progress.stage, fits(progress))
        elif event == "note":
            self._say(progress.stage or "note", message)
        elif event == "end":
            self._say(
                progress.stage,
                f"done in {words.duration(self.state.stage_seconds)}{message and ', ' + message}",
            )

    def stop_soon(self) -> None:
        """From a signal handler, where printing might interrupt a print: written straight to stderr."""
        said = f"{stopping(self.state.stage)} ...\n".encode()
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, said)

    def _step(self) -> None:
        state = self.state
        tenth = 10 * state.step // state.steps if state.steps else 0
        if tenth == self._tenth or state.latest is None:
            return
        self._tenth = tenth
        parts = [f"step {state.step:,}/{state.steps:,}, loss {state.smooth_loss():.3f}"]
        if state.latest.tokens_per_second is not None:
            parts.append(f"{state.latest.tokens_per_second:,.0f} tokens/s")
        if state.latest.memory:
            parts.append(words.size(state.latest.memory))
        if state.seconds_left:
            parts.append(f"{words.duration(state.seconds_left)} left")
        self._say("train", ", ".join(parts))

    def _working(self, progress: Progress) -> None:
        """At most a line every ten seconds, as most of this work is quick; none says again what the last did."""
        now = self.state.clock()
        if now - self._spoke < 10:
            return
        part = f" {progress.done:,}/{progress.total:,}" if progress.total and progress.done is not None else ""
        left = self.state.working_left
        part += f", about {words.duration(left)} left" if left else ""
        said = f"{visible(progress.message) or 'working'}{part}"
        if (progress.stage, said) != self._said:
            self._say(progress.stage, said)

    def _asked(self, progress: Progress) -> None:
        """At most a line every ten seconds."""
        if self.state.clock() - self._spoke >= 10:
            self._say("teach", asked(progress))

    def _say(self, where: str, what: str) -> None:
        self._spoke, self._said = self.state.clock(), (where, what)
        self.console.print(Text(f"{where}: {what}"), soft_wrap=True)


def stopping(stage: str) -> str:
    """What happens after Ctrl-C, which each stage hears in a place of its own."""
    when = {
        "teach": " after the replies under way",
        "train": " after this step",
        "evaluate": "; the answers so far are kept",
        "export": "; finished files stay",
    }
    return f"stopping{when.get(stage, '')}"


def fits(progress: Progress) -> str:
    """What one real step has shown."""
    text = f"it fits: one step on the longest rows took {words.size(progress.memory or 0)}"
    text += f" of the {words.size(progress.total or 0)} of memory that can be had"
    return text + (
        f"; the training will take about {words.duration(progress.seconds_left)}" if progress.seconds_left else ""
    )


def asked(progress: Progress) -> str:
    """How far a teacher is."""
    parts = [f"{progress.done or 0:,} of about {progress.total or 0:,} replies"]
    if progress.failed:
        parts.append(f"{progress.failed:,} without use")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left:
        parts.append(f"about {words.duration(progress.seconds_left)} left")
    if progress.spent is not None:
        parts.append(f"{words.money(progress.spent)} spent")
    if progress.money_left is not None:
        parts.append(f"about {words.money(progress.money_left)} to come")
    return ", ".join(parts)


def measured(progress: Progress) -> str:
    """One model's measurement in a line."""
    parts = [progress.model or ""]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.score is not None:
        parts.append(f"{progress.message or 'score'} {words.percent(progress.score)}")
    elif progress.message:
        parts.append(visible(progress.message))
    return "  ".join(part for part in parts if part)
