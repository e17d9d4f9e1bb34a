from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the fake server beside the tests


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNESMITH_TEACHER_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries that a test need not wait for."""
    monkeypatch.setattr("tunesmith.teacher.client.FIRST_PAUSE", 0.005)
    monkeypatch.setattr("tunesmith.teacher.client.LONGEST_PAUSE", 0.02)
