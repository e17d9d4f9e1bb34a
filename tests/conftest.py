from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests

from tiny_chat import write_model

from tunesmith.progress import Progress


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never touch the person's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def fresh_consoles() -> Iterator[None]:
    """What a test has put in the place of stdout and stderr is what the consoles write to."""
    from tunesmith.cli import console

    for clear in (console.standard_output.cache_clear, console.standard_error.cache_clear):
        clear()
    yield
    for clear in (console.standard_output.cache_clear, console.standard_error.cache_clear):
        clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def no_trial(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests of fitting start the process that tries a step: it takes seconds, and every training asks."""

    def examine(*_):
        yield Progress("fits", stage="train", memory=1, total=2, seconds_left=3.0)

    if request.node.get_closest_marker("tries_a_step") is None:
        monkeypatch.setattr("tunesmith.training.fit.examine", examine)


@pytest.fixture(autouse=True)
def few_general_questions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests of the general set ask all of it: every evaluation asks it twice."""
    if "general" not in request.path.name:
        from tunesmith.evaluation.general import General

        every = General.questions
        monkeypatch.setattr(General, "questions", lambda self, rows: every(self, rows)[::60])
