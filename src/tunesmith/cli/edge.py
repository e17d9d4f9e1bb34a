"""The edge to a person: errors become one sentence and an exit status, and Ctrl-C is heard twice."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tunesmith.errors import CheckFailed, TunesmithError

CONTINUES = "the same command continues from here"


class UsageError(Exception):
    """The command line itself is wrong: exit 2."""


def exit_status(command: Callable[[], Any]) -> int:
    """Run ``command``; what it raises becomes a sentence on stderr.

    0 done, 1 the person can mend it, 2 wrong usage, 3 a check did not hold, 130 stopped by Ctrl-C,
    141 the reader of our output went away. A bug keeps its traceback.
    """
    try:
        command()
        sys.stdout.flush()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1 if leaving.code else 0
    except KeyboardInterrupt as stopped:
        _say(str(stopped) or "stopped", style="yellow")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains on its way out
        return 141
    except (TunesmithError, UsageError) as error:
        if os.environ.get("TUNESMITH_DEBUG") == "1":
            _traceback()
        _say(str(error))
        return 2 if isinstance(error, UsageError) else 3 if isinstance(error, CheckFailed) else 1
    except Exception:
        _traceback()
        _say("this is a bug in tunesmith, not yours: please report it with the lines above")
        return 1
    return 0


def _say(sentence: str, style: str = "red") -> None:
    from rich.text import Text

    from tunesmith.cli.console import standard_error, visible

    standard_error().print(Text(f"tunesmith: {visible(sentence)}", style), soft_wrap=True)


def _traceback() -> None:
    import traceback

    traceback.print_exc()


@contextmanager
def two_interrupts(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Yields ``stop``: whether Ctrl-C was pressed. The first time the work is asked to stop at the next
    good place, and ``on_first`` is called from the signal handler; the second time it is stopped at once.
    """
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt(f"stopped at once; {CONTINUES.replace('here', 'the last checkpoint')}")
        asked.set()
        on_first()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stopping(kept: str) -> Iterator[None]:
    """Where Ctrl-C ends the command at once: say what stays."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {kept}") from None
