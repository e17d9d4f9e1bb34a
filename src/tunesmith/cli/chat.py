"""The terminal chat: a loop over anything that answers messages."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from tunesmith.cli.console import standard_error, standard_output, visible
from tunesmith.cli.prose import Prose
from tunesmith.cli.talk import Chat, Talk
from tunesmith.errors import TunesmithError

PROMPT, MORE = "› ", "… "
QUOTES = '"""'


def open_and_chat(name: str) -> None:
    """`tunesmith chat`."""
    from tunesmith.serving.answers import open_chat

    status = standard_error().status(f"loading {visible(name)}") if sys.stdin.isatty() else contextlib.nullcontext()
    with status:
        model = open_chat(name)
    chat(model)


def chat(model: Chat) -> None:
    """Talk until Ctrl-D or /exit. With piped stdin each line is a question, and only answers are printed."""
    if sys.stdin.isatty():
        _converse(model)
        return
    talk = Talk(model, lambda text: None)
    for line in sys.stdin:
        if not talk.hear(line.strip()):
            return


def _converse(model: Chat) -> None:
    _say(f"{visible(model.name)} · /help says what can be done, Ctrl-D leaves")
    talk = Talk(model, _say)
    with _line_editing():
        while (line := _read()) is not None:
            try:
                with _no_echo():
                    if not talk.hear(line):
                        return
            except KeyboardInterrupt:
                _say("\nstopped")
            except TunesmithError as error:
                standard_error().print(Text(f"tunesmith: {visible(str(error))}", "red"), soft_wrap=True)


def _read() -> str | None:
    """The next question or command; None when the person leaves."""
    while True:
        try:
            return _whole(input(PROMPT).strip())
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            _say("Ctrl-D leaves")


def _whole(text: str) -> str:
    """Several lines between three quotes are one question."""
    if not text.startswith(QUOTES):
        return text
    text = text.removeprefix(QUOTES)
    while not text.endswith(QUOTES):
        text += "\n" + input(MORE).rstrip()
    return text.removesuffix(QUOTES).strip()


def _say(text: str) -> None:
    standard_output().print(Prose(text, "dim"))


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keys that are pressed while an answer is written do not appear in the middle of it; they are the beginning of the
    next question, also where Ctrl-C stops it."""
    try:
        import termios

        before = termios.tcgetattr(sys.stdin.fileno())
    except (ImportError, OSError):  # Windows, or no real terminal
        yield
        return
    quiet = [*before[:3], before[3] & ~termios.ECHO | termios.NOFLSH, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys, lines that are pasted together, and a history that outlives the chat, where the system has
    readline."""
    try:
        import readline
    except ImportError:  # Windows has its own
        yield
        return
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")  # else each pasted line is a question
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
