"""A person's own grader: grade(question, answer, reference) in a Python file of theirs.

It runs in this process, with all rights of it: it is the person's own code, like the recipe that names it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import ask_answered
from tunesmith.settings.evaluate import FunctionTaskSettings
from tunesmith.sources.example import Example
from tunesmith.sources.text import source_errors

MODULE = "tunesmith_own_grader"


class FunctionTask:
    """Raises `SourceError` when the file or the function is not there, or the file does not run."""

    name = "function"

    def __init__(self, settings: FunctionTaskSettings, folder: Path) -> None:
        self._path, self._called = folder / settings.file, settings.name
        self._function = _load(self._path, settings.name)

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        """Raises `SourceError` when the function fails on every reference that is given to it as an answer."""
        asked = ask_answered(rows, self.name)
        if all(self.grade(question, question.reference).score is None for question in asked):
            first = asked[0]
            raise SourceError(
                f"{self._path}: {self._called} fails on all {len(asked)} reference answers, given to it as answers "
                f"themselves; of {first.origin}: {self.grade(first, first.reference).reason}; mend the function"
            )
        return asked

    def grade(self, question: Question, answer: str) -> Verdict:
        try:
            result = self._function(question.asked, answer, question.reference)
            result = result.item() if hasattr(result, "item") else result  # numpy's and torch's numbers
        except (Exception, SystemExit) as error:
            return Verdict(None, f"the grader failed: {_said(error)}")
        if isinstance(result, bool):
            return Verdict(float(result), "right" if result else "wrong")
        if isinstance(result, int | float) and 0 <= result <= 1:
            return Verdict(float(result), f"score {result:.3g}")
        shown = " ".join(repr(result).split())[:60]
        return Verdict(None, f"the grader failed: it gave {shown}, not True, False or a number from 0 to 1")


def _load(path: Path, name: str) -> Callable[[str, str, str], Any]:
    with source_errors(path):
        source = path.read_bytes()
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module  # where dataclasses look up their types
    try:
        with _beside(path):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise SourceError(f"{path} does not run as Python: {_said(error)}; mend it") from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if isinstance(value, FunctionType)]
        has = f"; it has {', '.join(own[:8])}" if own else ""
        raise SourceError(f"{path} has no function {name}(question, answer, reference){has}; write it, or mend name")
    return function


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """The file may import others of its folder while it is loaded; later they must not stand in the way of ours."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _said(error: BaseException) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
