"""The terminal chat: a loop over anything that answers messages."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from rich.text import Text

from tunesmith.cli.console import standard_error, standard_output, visible
from tunesmith.errors import TunesmithError

HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer"
PROMPT = "› "

Messages = list[dict[str, str]]


class Chat(Protocol):
    """What is talked to."""

    @property
    def name(self) -> str: ...

    def answer(self, messages: Messages, on_text: Callable[[str], None]) -> str: ...


def chat(model: Chat) -> None:
    """Talk until Ctrl-D or /exit. With piped stdin each line is a question, and only answers are printed."""
    if sys.stdin.isatty():
        _converse(model)
        return
    messages: Messages = []
    for line in sys.stdin:
        if not _command(line.strip(), messages, _say_nothing):
            return
        if line.strip() and not line.startswith("/"):
            _answer(model, line.strip(), messages)


def _converse(model: Chat) -> None:
    _say(f"{model.name} · {HELP}")
    messages: Messages = []
    with _line_editing():
        while (question := _ask()) is not None:
            if not _command(question, messages, _say):
                return
            if not question or question.startswith("/"):
                continue
            known = len(messages)
            try:
                _answer(model, question, messages)
            except KeyboardInterrupt:
                _say("\nstopped")
            except TunesmithError as error:
                del messages[known:]
                standard_error().print(Text(f"\ntunesmith: {error}", "red"), soft_wrap=True)


def _ask() -> str | None:
    """The next question; None when the person leaves."""
    while True:
        try:
            return input(PROMPT).strip()
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            _say("Ctrl-D leaves")


def _command(line: str, messages: Messages, say: Callable[[str], None]) -> bool:
    """Do what a line beginning with / asks for. False when it asks to leave."""
    if line in ("/exit", "/quit"):
        return False
    if line == "/reset":
        messages.clear()
        say("forgotten")
    elif line.startswith("/"):
        say(HELP)
    return True


def _answer(model: Chat, question: str, messages: Messages) -> None:
    """Stream the answer to stdout. A stopped answer stays in the conversation as far as it came."""
    messages.append({"role": "user", "content": question})
    said: list[str] = []

    def on_text(text: str) -> None:
        said.append(text)
        sys.stdout.write(visible(text))
        sys.stdout.flush()

    try:
        answer = model.answer(list(messages), on_text)
    except KeyboardInterrupt:
        if "".join(said).strip():
            messages.append({"role": "assistant", "content": "".join(said).strip()})
        else:
            messages.pop()
        raise
    if not said:
        on_text(answer)
    if not "".join(said).endswith("\n"):
        on_text("\n")
    messages.append({"role": "assistant", "content": answer})


def _say(text: str) -> None:
    standard_output().print(Text(text, "dim"), soft_wrap=True)


def _say_nothing(text: str) -> None:
    """Piped output holds answers only."""


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys and a history that outlives the chat, where the system has readline."""
    try:
        import readline
    except ImportError:  # Windows has its own
        yield
        return
    history = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tunesmith" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a read-only home is no reason to fail
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
            history.chmod(0o600)
