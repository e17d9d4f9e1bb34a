"""Where this room prints. Text from rows and models is made harmless and visible first."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

from rich.console import Console

from tunesmith.pages.text import PICTURES


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit 1, which means something else here


@cache
def standard_output() -> Console:
    """The console for what was asked for."""
    return _console(sys.stdout)


@cache
def standard_error() -> Console:
    """The console for everything else."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # rows may hold half a surrogate pair, terminals may know no Chinese
    return _Console(file=stream, highlight=False, markup=False, emoji=False)


def visible(text: str) -> str:
    """``text`` with control characters as pictures (␛), except newline and tab."""
    return text.translate(PICTURES)


def print_json(value: Any) -> None:
    """The one JSON object of ``--json``; escaped where the stream cannot carry it."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
